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
    parts = [_intro(rows), _overhead(rows), _targets(rows), _loading(rows), _checkpoints(rows)]
    return "\n\n".join(part for part in parts if part)


def _intro(rows: list[Row]) -> str:
    row, load = rows[0], max(row["load"] for row in rows)
    busy = f" Other programs kept it busy meanwhile (load {load:.0f})." if load > row["cores"] + 1 else ""
    return (
        f"{machine(row)}.{busy} One thread, recipe `motionbench` (`corrnet_tiny`, 16 clips a step). The trainer and a "
        "bare loop (forward, loss, backward, clipping, update) take turns of a few steps in one process, on the same "
        "batches, and end with equal weights, bit for bit. Ratios are medians over turns with the 20 and 80 % "
        "quantiles; the bare loop beside itself shows what they are worth. Processor time leaves out waiting, and "
        "what other programs take."
    )


def _more(row: Row, key: str = "ratio") -> str:
    """How much more time than the bare loop, in percent."""
    low, middle, high = (100 * (row[f"{key}{q}"] - 1) for q in (20, 50, 80))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def _overhead(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] == "overhead":
            step = number(row["cpu_ms50"] / row["block"])
            times = ["", ""] if row["provider"] == BARE else [_more(row, "cpu_ratio"), _more(row)]
            body.append([row["case"], row["provider"], step, *times, str(row["rounds"])])
    header = ["shown", "loop", "step, ms of processor", "more processor time", "more time", "turns"]
    return table(header, body, left=2)


def _targets(rows: list[Row]) -> str:
    """What the trainer adds in all, with a checkpoint as often as the recipe says, and waiting."""
    body = []
    for case in ("log lines", "progress bar"):
        bare, ours, saving = (
            find(rows, table="overhead", case=case, provider=name) for name in (BARE, OURS, SAVING)
        )
        if ours and saving:
            checkpoint = (
                (saving["cpu_ratio50"] - ours["cpu_ratio50"]) * bare["block"] / bare["checkpoint_every"]
            )
            added = ours["cpu_ratio50"] - 1 + checkpoint
            target = f"at most 2 % more processor time, {case}, a checkpoint every {bare['checkpoint_every']} steps"
            body.append([target, f"{added:.1%}", "yes" if added <= 0.02 else "no"])
    one = find(rows, table="loading", provider="data.num_workers=1")
    if one:
        met = "yes" if one["wait50"] < 0.02 else "no"
        body.append(["less than 2 % waiting for data, one worker", f"{one['wait50']:.1%}", met])
    return "\n\n".join(part for part in (table(["target", "reached", "met"], body), _in_words(rows)) if part)


def _in_words(rows: list[Row]) -> str:
    """What a step and a checkpoint cost over the bare loop, in milliseconds."""
    case = {"table": "overhead", "case": "log lines, 1 clip a step"}
    bare, ours, saving = (find(rows, **case, provider=name) for name in (BARE, OURS, SAVING))
    recipe = find(rows, table="overhead", case="log lines", provider=BARE)
    if not (ours and saving and recipe):
        return ""
    step, every = recipe["cpu_ms50"] / recipe["block"], recipe["checkpoint_every"]
    per_step = (ours["cpu_ratio50"] - 1) * bare["cpu_ms50"] / bare["block"]
    checkpoint = (saving["cpu_ratio50"] - ours["cpu_ratio50"]) * bare["cpu_ms50"]
    return (
        f"With one clip a step it is seen best: the trainer adds {per_step:.2g} ms of processor time to a step, "
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
