"""Tables of the operator's times, made of the rows on record alone.

python -m bench.ops.ops_report     # writes short ones into the README of corr-ops and prints all

`python -m bench.report` has all of them on its page.
"""

from pathlib import Path
from typing import Any

from bench import record
from bench.tables import Row, find, machine, milliseconds, number, table, write_between_markers

README = Path(__file__).parents[2] / "packages" / "corr-ops" / "README.md"
STAGES = ("res2", "res3", "res4")
LANES = {"avx512": 16, "avx2": 8, "baseline": 4}
# Vector instructions for each multiply-accumulate of Table 1: a product and a fused sum; the backward pass has
# two products and three fused sums.
INSTRUCTIONS = {"forward": 2, "forward+backward": 7}
OTHERS = {
    "reference": "reference",
    "inductor": "reference, Inductor",
    "conv3x3x3": "Conv3d 3x3x3",
    "conv1x7x7": "Conv3d 1x7x7",
    "conv3x1x1": "Conv3d 3x1x1",
    "conv1x3x3": "Conv3d 1x3x3",
}
# Direction, other, how many times its time has to be that of ours, and where.
SPEED_TARGETS = (
    ("forward", "conv3x3x3", 8, STAGES),
    ("forward", "reference", 25, ("res2",)),
    ("forward+backward", "conv3x3x3", 4, STAGES),
    ("forward+backward", "reference", 15, ("res2",)),
)
MEMORY_TARGET, SCALING_TARGET = 1.2, 1.8
CASE = ("stage", "num_frames", "batch", "direction")


def markdown(rows: list[Row]) -> str:
    """Return the tables for which there are rows."""
    parts = [_intro(rows), *_times(rows), _targets(rows), _memory(rows), _layouts(rows), _pairs(rows)]
    return "\n\n".join(part for part in parts if part)


def short(rows: list[Row]) -> str:
    """Return what a README has room for: the stages at both ends of the sizes, and the targets."""
    others = {"reference": "reference", "conv3x3x3": "Conv3d 3x3x3", "conv1x7x7": "Conv3d 1x7x7"}
    body: dict[tuple[Any, ...], list[str]] = {}
    for case, contenders in _cases(rows, "correlation"):
        ratios = [number(find(contenders, provider=other).get("ratio50")) for other in others]
        names = (case["stage"], case["num_frames"], case["batch"])
        body.setdefault(names, [*map(str, names)]).extend([number(contenders[0]["ms50"]), *ratios])
    header = ["stage", "L", "N"]
    for direction in INSTRUCTIONS:
        header += [f"{direction}, ms", *others.values()]
    parts = [_intro(rows), table(header, list(body.values()), left=3), _targets(rows)]
    return "\n\n".join(part for part in parts if part)


def _intro(rows: list[Row]) -> str:
    return (
        f"{machine(rows[0])}. L frames, N clips, float32, contiguous and on all cores unless a table says otherwise. "
        "All contenders take turns in one process; every call allocates its results. Times are medians with the "
        "20 and 80 % quantiles. Ratios are (time of the other) / (time of ours) in the same round, medians again."
    )


def _cases(rows: list[Row], name: str) -> list[tuple[Row, list[Row]]]:
    """Return the cases of a table in order, each with its rows."""
    cases: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["table"] == name:
            cases.setdefault(tuple(row[key] for key in CASE), []).append(row)
    return [(dict(zip(CASE, key, strict=True)), case) for key, case in cases.items()]


def _labels(case: Row) -> list[str]:
    return [str(value) for value in case.values()]


def _times(rows: list[Row]) -> list[str]:
    body, notes = [], []
    for case, contenders in _cases(rows, "correlation"):
        ours = contenders[0]
        single = find(contenders[1:], provider=ours["provider"], threads=1)
        ratios = [find(contenders, provider=other).get("ratio50") for other in OTHERS]
        cells = [number(_floor(ours)), number(single.get("ratio50")), *map(number, ratios)]
        body.append([*_labels(case), milliseconds(ours), *cells])
        notes += [
            f"`{row['provider']}` at {row['stage']}: {row['note']}." for row in contenders if row.get("note")
        ]
    header = ["stage", "L", "N", "direction", "ours, ms", "floor, ms", "1 thread", *OTHERS.values()]
    floor = (
        "The floor is what the vector instructions take at two a cycle and the clock that the system reports: "
        "2 for every multiply-accumulate and vector in the forward pass, 7 with the gradients."
    )
    return [table(header, body, left=4), floor, *notes] if body else []


def _floor(row: Row) -> float | None:
    """Return the least time in milliseconds for the vector instructions of a row's work."""
    if not row.get("ghz") or row.get("instruction_set") not in LANES:
        return None
    instructions = row["macs"] * INSTRUCTIONS[row["direction"]] / LANES[row["instruction_set"]]
    return instructions / 2 / row["threads"] / row["ghz"] / 1e6


def _targets(rows: list[Row]) -> str:
    rows = [row for row in rows if (row["num_frames"], row["batch"]) == (8, 1)]
    body = []

    def add(target: str, values: list[float | None], met: list[bool]) -> None:
        body.append([target, *map(number, values), "yes" if all(met) else "no"])

    for direction, other, wanted, stages in SPEED_TARGETS:
        ratios = [
            find(rows, table="correlation", stage=stage, direction=direction, provider=other).get(
                "ratio50", 0
            )
            for stage in STAGES
        ]
        where = "" if stages == STAGES else f", at {' and '.join(stages)}"
        met = [ratio >= wanted for stage, ratio in zip(STAGES, ratios, strict=True) if stage in stages]
        add(f"{direction}: at least {wanted} times as fast as {OTHERS[other]}{where}", ratios, met)
    for direction in INSTRUCTIONS:
        shares = [
            _share(find(rows, table="memory", stage=stage, direction=direction, provider="cpu"))
            for stage in STAGES
        ]
        target = f"{direction}: extra memory at most {MEMORY_TARGET} times outputs and gradients"
        add(target, shares, [share is not None and share <= MEMORY_TARGET for share in shares])
    for direction in INSTRUCTIONS:
        gains = [
            find(rows, table="correlation", stage=stage, direction=direction, provider="cpu", threads=1).get(
                "ratio50"
            )
            for stage in STAGES
        ]
        target = f"{direction}: all threads at least {SCALING_TARGET} times as fast as one, on 2 cores"
        add(target, gains, [gain is not None and gain >= SCALING_TARGET for gain in gains])
    return table(["target, for L = 8 and N = 1", *STAGES, "met"], body) if rows else ""


def _share(row: Row) -> float | None:
    return row["extra_bytes"] / row["result_bytes"] if row else None


def _memory(rows: list[Row]) -> str:
    others = ("cpu", "reference", "conv3x3x3")
    body = []
    for case, contenders in _cases(rows, "memory"):
        found = [find(contenders, provider=other) for other in others]
        size = next(row["result_bytes"] for row in found if row) / 1e6
        body.append([*_labels(case), number(size), *(number(_share(row)) for row in found)])
    header = ["stage", "L", "N", "direction", "outputs and gradients, MB", "extra memory: ours", *others[1:]]
    return table(header, body, left=4)


def _layouts(rows: list[Row]) -> str:
    body = [
        [
            row["stage"],
            row["direction"],
            row["dtype"],
            row["layout"],
            milliseconds(row),
            number(row["ratio50"]),
        ]
        for row in rows
        if row["table"] == "layouts"
    ]
    return table(["stage", "direction", "dtype", "layout", "ours, ms", "to the first"], body, left=4)


def _pairs(rows: list[Row]) -> str:
    body = []
    for case, (ours, other) in _cases(rows, "pairs"):
        result = number(other.get("ratio50")) or other["note"]
        body.append([case["stage"], case["direction"], milliseconds(ours), result])
    header = ["8 pairs of images, no filters, G = 1", "direction", "ours, ms", "spatial-correlation-sampler"]
    return table(header, body, left=2)


def main() -> None:
    rows = record.read("ops")
    ends = [row for row in rows if row["num_frames"] * row["batch"] in (8, 128)]
    write_between_markers(README, "bench.ops.ops_report", short(ends))
    print(markdown(rows))


if __name__ == "__main__":
    main()
