"""Tables of reading and packing, made of the rows on record alone.

python -m bench.data.data_report     # writes them into the README of video-data and prints them
"""

from pathlib import Path

from bench import record
from bench.tables import Row, find, number, table, write_between_markers

README = Path(__file__).parents[2] / "packages" / "video-data" / "README.md"
FLOOR, RGB, PLANES = "floor", "ours, RGB", "ours, planes"
CLIPS = (FLOOR, "floor, opened without probing", PLANES, RGB)
SLOWER = ("whole frames, then crop and resize", "whole video, then frames", "torchcodec")
VIEWS = (PLANES, RGB, "a seek for each clip", "decode_views, indexes the file first")


def markdown(rows: list[Row]) -> str:
    """Return the tables for which there are rows."""
    parts = [_intro(rows[0]), _clips(rows), _views(rows), _targets(rows), _others(rows)]
    return "\n\n".join(part for part in parts if part)


def _intro(row: Row) -> str:
    clock = f" at {row['ghz']} GHz" if row.get("ghz") else ""
    return (
        f"{row['cpu']}{clock}, {row['cores']} cores, PyAV {row['av']}. Generated videos of 300 frames of 340x256; "
        "clips of 32 frames, crop 224x224, shorter side 256 to 320. All contenders take turns in one process, clips "
        "and views on one core. The floor opens the file, seeks and decodes the frames that are needed, without "
        "converting them. Shares of the floor's speed are medians of ratios of the same round."
    )


def _speed(row: Row) -> str:
    """How many things a second, from the median time."""
    return number(1e3 * row["number"] / row["ms50"]) if "ms50" in row else ""


def _share(row: Row) -> str:
    """Speed relative to the base of the comparison; the reason where it cannot run."""
    return f"{1 / row['ratio50']:.2f}" if "ratio50" in row else row.get("note", "").partition(":")[0]


def _clips(rows: list[Row]) -> str:
    body = []
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for row in sorted(rows, key=lambda row: kinds.index(row["kind"])):
        if row["table"] == "clips" and row["provider"] == FLOOR:
            case = {"table": "clips", "kind": row["kind"], "stride": row["stride"]}
            shares = [_share(find(rows, **case, provider=name)) for name in (*CLIPS[1:], *SLOWER)]
            body.append([row["kind"], f"{row['frame_bytes']:.0f}", str(row["stride"]), _speed(row), *shares])
    header = ["video", "bytes a frame", "stride", "floor, clips/s", *CLIPS[1:], *SLOWER]
    notes = {f"`{row['provider']}`: {row['note']}." for row in rows if row.get("note")}
    return "\n\n".join([table(header, body), *sorted(notes)]) if body else ""


def _views(rows: list[Row]) -> str:
    body = []
    for row in rows:
        if row["table"] == "views" and row["provider"] == FLOOR:
            shares = [_share(find(rows, table="views", kind=row["kind"], provider=name)) for name in VIEWS]
            body.append([row["kind"], _speed(row), *shares])
    return table(["ten test views of", "floor, videos/s", *VIEWS], body)


def _targets(rows: list[Row]) -> str:
    body = []

    def add(target: str, limit: float, row: Row, *, at_most: bool = False) -> None:
        if "ratio50" not in row:
            return
        value = row["ratio50"] if at_most else 1 / row["ratio50"]
        met = value <= limit if at_most else value >= limit
        body.append([target, f"{value:.3f}", "yes" if met else "no"])

    clip = {"table": "clips", "kind": "H.264 GOP 12", "stride": 1}
    add("planes at least 0.95 of the floor", 0.95, find(rows, **clip, provider=PLANES))
    add("RGB at least 0.80 of the floor", 0.80, find(rows, **clip, provider=RGB))
    views = {"table": "views", "kind": "H.264 GOP 12"}
    add("ten views at least 0.75 of their floor", 0.75, find(rows, **views, provider=RGB))
    loader = find(rows, table="overhead", provider="train_loader")
    add("loader at most 1.03 times the time of the bare recipe", 1.03, loader, at_most=True)
    return table(["target, H.264 GOP 12, stride 1", "reached", "met"], body)


def _others(rows: list[Row]) -> str:
    names = {
        "overhead": "loader in one process",
        "scaling": "loader",
        "reads": "reads of samples, not in the page cache",
        "packing": "packing",
    }
    body = [
        [names[row["table"]], row["provider"], f"{_speed(row)} {row['unit']}s/s", _share(row)]
        for row in rows
        if row["table"] in names
    ]
    return table(["what", "how", "speed", "to the first"], body, left=2)


def main() -> None:
    text = markdown(record.read("data"))
    write_between_markers(README, "bench.data.data_report", text)
    print(text)


if __name__ == "__main__":
    main()
