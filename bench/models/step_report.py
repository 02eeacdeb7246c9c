"""The table of training steps, made of the rows on record alone.

python -m bench.models.step_report     # writes it into the README of corrnet-models and prints it
"""

from pathlib import Path

from bench import record
from bench.tables import Row, machine, milliseconds, number, table, write_between_markers

README = Path(__file__).parents[2] / "packages" / "corrnet-models" / "README.md"


def markdown(rows: list[Row]) -> str:
    """Return the table."""
    body = []
    for row in rows:
        other = next(last for last in reversed(rows) if last["size"] == row["size"])
        cells = [milliseconds(row), number(1e3 * row["batch"] / row["ms50"]), number(row["ratio50"])]
        clip = f"{row['num_frames']} x {row['resolution']} x {row['resolution']}"
        body.append([row["provider"], clip, str(row["batch"]), *cells, number(row["gmacs"] / other["gmacs"])])
    header = ["model", "clip", "N", "step, ms", "clips/s", "time to R(2+1)D", "GMACs to R(2+1)D"]
    intro = (
        f"{machine(rows[0])}, float32. Contenders take turns in one process; times are medians with the 20 and "
        "80 % quantiles, ratios are medians over rounds."
    )
    return f"{intro}\n\n{table(header, body, left=2)}"


def main() -> None:
    text = markdown(record.read("training_step"))
    write_between_markers(README, "bench.models.step_report", text)
    print(text)


if __name__ == "__main__":
    main()
