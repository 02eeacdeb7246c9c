"""The tables of the trainer's overhead, made of the rows on record alone.

python -m bench.train.train_report     # writes them into the README of corrnet-train and prints them
"""

from pathlib import Path

from bench import record
from bench.tables import Row, find, machine, number, table, write_between_markers

README = Path(__file__).parents[2] / "packages" / "corrnet-train" / "README.md"
BARE, AGAIN, OURS = "bare loop", "bare loop once more", "corrnet train"
SAVING = f"{OURS}, blocks with a checkpoint"
DEFAULT_EVERY = 500  # steps between checkpoints, run.checkpoint_every


def markdown(rows: list[Row]) -> str:
    """Return the tables for which there are rows."""
    parts = [_intro(rows[0]), _overhead(rows), _loading(rows), _checkpoints(rows)]
    return "\n\n".join(part for part in parts if part)


def _intro(row: Row) -> str:
    return (
        f"{machine(row)}, one thread, recipe `motionbench` (`corrnet_tiny`, 16 clips a step). The trainer and a bare "
        "loop (forward, loss, backward, clipping, update) take turns of a few steps in one process, on the same "
        "batches, and end with equal weights, bit for bit. Ratios are medians over turns with the 20 and 80 % "
        "quantiles; the bare loop beside itself shows what they are worth. Processor time leaves out what other "
        "programs take, and waiting."
    )


def _more(row: Row, key: str = "ratio") -> str:
    """How much more time than the bare loop, in percent."""
    if f"{key}50" not in row:
        return ""
    low, middle, high = (100 * (row[f"{key}{q}"] - 1) for q in (20, 50, 80))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def _overhead(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] == "overhead":
            step = number(row["ms50"] / row["block"])
            times = ["", ""] if row["provider"] == BARE else [_more(row), _more(row, "cpu_ratio")]
            body.append([row["case"], row["provider"], step, *times, str(row["rounds"])])
    header = ["shown on standard error", "loop", "step, ms", "more time", "more processor time", "turns"]
    return "\n\n".join(part for part in (table(header, body, left=2), _in_words(rows)) if part)


def _in_words(rows: list[Row]) -> str:
    """What a checkpoint and a step cost over the bare loop."""
    case = {"table": "overhead", "case": "log lines"}
    bare, ours, saving = (find(rows, **case, provider=name) for name in (BARE, OURS, SAVING))
    small = find(rows, table="overhead", case="log lines, 1 clip a step", provider=OURS)
    small_bare = find(rows, table="overhead", case="log lines, 1 clip a step", provider=BARE)
    if not (ours and saving and small):
        return ""
    step, every = bare["cpu_ms50"] / bare["block"], bare["checkpoint_every"]
    checkpoint = (saving["cpu_ratio50"] - ours["cpu_ratio50"]) * bare["cpu_ms50"]
    per_step = (small["cpu_ratio50"] - 1) * small_bare["cpu_ms50"] / small_bare["block"]
    return (
        f"In processor time, one clip a step shows it best: the trainer adds {per_step:.2g} ms to a step, "
        f"{per_step / step:.1%} of the recipe's, and a checkpoint {checkpoint:.2g} ms, "
        f"{checkpoint / step / every:.2%} at one every {every} steps."
    )


def _loading(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] == "loading":
            wait = f"{row['wait50']:.1%} ({row['wait20']:.1%} to {row['wait80']:.1%})"
            body.append(
                [f"`{row['provider']}`", number(row["clips_per_second"]), f"{row['ratio50']:.2f}", wait]
            )
    return table(["decoding", "clips/s", "to none, same round", "data wait"], body)


def _checkpoints(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] == "checkpoints":
            stall = f"{number(row['ms50'])} ({number(row['ms20'])}-{number(row['ms80'])})"
            enough = number(row["ms50"] / DEFAULT_EVERY / 0.01)
            name = f"{row['provider']}, {row['case']}"
            body.append([name, number(row["megabytes"]), stall, number(row["write_ms50"]), enough])
    header = [
        "checkpoint of",
        "MB",
        "training waits, ms",
        "on disk after, ms",
        "below 1 % for steps over, ms",
    ]
    if not body:
        return ""
    return f"{table(header, body)}\n\nThe last column is for the default, a checkpoint every {DEFAULT_EVERY} steps."


def main() -> None:
    text = markdown(record.read("train"))
    write_between_markers(README, "bench.train.train_report", text)
    print(text)


if __name__ == "__main__":
    main()
