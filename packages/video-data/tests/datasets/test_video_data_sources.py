"""Data sets as they are distributed: miniature replicas are listed, and packed with what their annotations say."""

import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from video_data import PackOptions, open_shards, pack_listing
from video_data.datasets import (
    MISSING,
    list_csv,
    list_diving48,
    list_folder,
    list_hmdb51,
    list_kinetics,
    list_something,
    list_sports1m,
    list_ucf101,
)


@pytest.fixture(scope="module")
def put(make_video):
    """Writes a video whose frames show its number."""
    made: dict[tuple[int, str], bytes] = {}

    def write(path: Path, number: int = 0, num_frames: int = 3) -> None:
        container = {".webm": "webm", ".avi": "avi", ".mkv": "matroska"}.get(path.suffix, "mp4")
        key = (number, container, num_frames)
        if key not in made:
            codec = {
                "webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
                "avi": {"codec": "mpeg4"},
            }.get(container, {})
            made[key] = make_video([number + i for i in range(num_frames)], container=container, **codec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[key])

    return write


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def found(listing) -> dict[str, set[tuple[str, str]]]:
    """Source and class of what was found, by split."""
    splits: dict[str, set[tuple[str, str]]] = {}
    for entry in listing.entries:
        assert entry.path.exists()
        splits.setdefault(entry.split, set()).add((entry.source, entry.label))
    return splits


def packed(listing, folder: Path) -> dict[str, set[tuple[str, str]]]:
    """Source and class of what is in the shards, by split."""
    pack_listing(listing, folder, options=PackOptions(mode="copy"), progress=False)
    shards = open_shards(folder, verify=True)
    assert shards.manifest.dataset == listing.dataset
    return {
        split: {(record.source, shards.classes[record.label]) for record in shards.samples(split)}
        for split in shards.splits
    }


# --- Kinetics

KINETICS = {
    # label, id, start, end, split; the ids have what real ones have
    "train": [
        ("riding a bike", "-abc_DEF123", 3, 13, "train"),
        ("tying knot (not on a tie)", "0_-_-_-_-_-", 100, 110, "train"),
        ("riding a bike", "gone_video_", 7, 17, "train"),
    ],
    "val": [("tying knot (not on a tie)", "valvideo--1", 0, 10, "val")],
    "test": [("riding a bike", "testvideo-1", 12, 22, "test")],
}


def kinetics_csv(folder: Path, *, time="{}", val="val", name="{}.csv", quote=False) -> None:
    for split, rows in KINETICS.items():
        lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
        for label, youtube_id, start, end, _ in rows:
            shown = f'"{label}"' if quote else label
            times = f"{time.format(start)},{time.format(end)}"
            lines.append(f"{shown},{youtube_id},{times},{val if split == 'val' else split},0")
        text(folder / name.format(split), "\n".join(lines) + "\n")


def spaced(label: str) -> str:
    return label


def underscored(label: str) -> str:
    return label.replace(" ", "_").replace("(", "").replace(")", "")


@pytest.mark.parametrize(
    ("place", "annotations"),
    [
        ("{name}.mp4", "."),
        ("{split}/{name}.mp4", "annotations"),
        ("{split}/{label}/{name}.mkv", "kinetics400"),
        ("videos/{split}_256/{plain}/{name}.webm", "annotations"),
        ("{plain}/{name}.MP4", "annotations"),
    ],
)
def test_kinetics_in_every_layout(place, annotations, put, tmp_path):
    kinetics_csv(tmp_path / annotations, time="{}.0" if "plain" in place else "{}", val="validate")
    expected: dict[str, set[tuple[str, str]]] = {}
    for split, rows in KINETICS.items():
        for label, youtube_id, start, end, _ in rows:
            if youtube_id.startswith("gone"):
                continue
            name = f"{youtube_id}_{start:06d}_{end:06d}"
            source = place.format(name=name, split=split, label=label, plain=underscored(label))
            put(tmp_path / source)
            expected.setdefault(split, set()).add((source, label))
    listing = list_kinetics(tmp_path)
    assert found(listing) == expected
    assert (listing.dataset, listing.classes) == (
        "Kinetics-2",
        ("riding a bike", "tying knot (not on a tie)"),
    )
    assert [(entry.source, entry.split, reason) for entry, reason in listing.dropped] == [
        ("gone_video__000007_000017", "train", MISSING)
    ]
    if place == "{split}/{label}/{name}.mkv":
        assert packed(listing, tmp_path / "shards") == expected


def test_kinetics_of_equal_names_the_one_of_its_split_and_class_is_taken(put, tmp_path):
    kinetics_csv(tmp_path, quote=True)
    for place in ("train/tying knot/x", "train/riding_a_bike", "val/riding a bike", "test"):
        put(tmp_path / place / "-abc_DEF123_000003_000013.mp4")
    put(tmp_path / "0_-_-_-_-_-.mp4")  # without times, which is the only clip of its id
    listing = list_kinetics(tmp_path)
    assert found(listing) == {
        "train": {
            ("train/riding_a_bike/-abc_DEF123_000003_000013.mp4", "riding a bike"),
            ("0_-_-_-_-_-.mp4", "tying knot (not on a tie)"),
        }
    }


def test_kinetics_without_labels_for_the_test_split_says_so(put, tmp_path):
    kinetics_csv(tmp_path)
    text(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\ntestvideo-1,12,22,test\n")
    put(tmp_path / "-abc_DEF123_000003_000013.mp4")
    put(tmp_path / "0_-_-_-_-_-_000100_000110.mp4")
    listing = list_kinetics(tmp_path)
    assert listing.notes == ("1 videos without a label are not packed",)
    assert set(found(listing)) == {"train"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,youtube_id,time_start,split\na,b,1,train\n", "no column time_end"),
        (
            "label,youtube_id,time_start,time_end,split\na,b,1,2,dav\n",
            "line 2: split 'dav', allowed are train, training, val",
        ),
        (
            "label,youtube_id,time_start,time_end,split\na,b,x,2,train\n",
            "line 2: times 'x' and '2' are no seconds",
        ),
        (
            "label,youtube_id,time_start,time_end,split\na,b,1,inf,train\n",
            "line 2: times '1' and 'inf' are no seconds",
        ),
        ("label,youtube_id,time_start,time_end,split\na,b,1,2,val\n", "no rows of the split train"),
        ("label,youtube_id,time_start,time_end,split\na,b,1,2,train\n", "none of 1 videos of Kinetics-1"),
        ("name\n", r"no csv file of Kinetics .*expected label,youtube_id"),
    ],
)
def test_wrong_annotations_of_kinetics_are_refused(content, message, tmp_path):
    text(tmp_path / "train.csv", content)
    with pytest.raises(ValueError, match=message):
        list_kinetics(tmp_path)


# --- Something-Something

TEMPLATES = ["Pushing [something] from left to right", "Holding [something] over [something]"]


def plain(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def something_v2(folder: Path, prefix: str) -> None:
    labels = {plain(TEMPLATES[1]): "1", plain(TEMPLATES[0]): "0"}
    text(folder / f"{prefix}labels.json", json.dumps(labels))
    for split, numbers in {"train": (7, 33, 40), "validation": (51,)}.items():
        rows = [
            {"id": str(n), "label": "pushing a pen", "template": TEMPLATES[n % 2], "placeholders": ["a pen"]}
            for n in numbers
        ]
        text(folder / f"{prefix}{split}.json", json.dumps(rows))
    text(folder / f"{prefix}test.json", json.dumps([{"id": "60"}]))


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_something_v2(prefix, put, tmp_path):
    something_v2(tmp_path / "labels", prefix)
    for number in (7, 40, 51, 60):
        put(tmp_path / "20bn-something-something-v2" / f"{number}.webm", number)
    listing = list_something(tmp_path)
    folder = "20bn-something-something-v2"
    expected = {
        "train": {(f"{folder}/7.webm", plain(TEMPLATES[1])), (f"{folder}/40.webm", plain(TEMPLATES[0]))},
        "val": {(f"{folder}/51.webm", plain(TEMPLATES[1]))},
    }
    assert found(listing) == expected
    assert listing.classes == tuple(map(plain, TEMPLATES))
    assert listing.dataset == "Something-Something v2"
    assert [(entry.source, reason) for entry, reason in listing.dropped] == [("33", MISSING)]
    assert "test split has no labels" in listing.notes[0]
    if prefix:
        assert packed(listing, tmp_path / "shards") == expected


def test_something_v1_has_folders_of_frames(make_picture, tmp_path):
    text(tmp_path / "something-something-v1-labels.csv", "\n".join(map(plain, TEMPLATES)) + "\n")
    text(
        tmp_path / "something-something-v1-train.csv", f"7;{plain(TEMPLATES[1])}\n33;{plain(TEMPLATES[0])}\n"
    )
    text(
        tmp_path / "something-something-v1-validation.csv",
        f"51;{plain(TEMPLATES[1])}\n52;{plain(TEMPLATES[1])}\n",
    )
    folder = tmp_path / "20bn-something-something-v1"
    for number in (7, 33, 51):
        (folder / str(number)).mkdir(parents=True)
        for frame in range(1, 5):
            (folder / str(number) / f"{frame:05d}.jpg").write_bytes(make_picture(number + frame))
    listing = list_something(tmp_path)
    assert all(entry.frame_rate == 12 for entry in listing.entries)
    assert listing.dataset == "Something-Something v1"
    assert packed(listing, tmp_path / "shards") == {
        "train": {
            ("20bn-something-something-v1/7", plain(TEMPLATES[1])),
            ("20bn-something-something-v1/33", plain(TEMPLATES[0])),
        },
        "val": {("20bn-something-something-v1/51", plain(TEMPLATES[1]))},
    }
    records = list(open_shards(tmp_path / "shards").samples("train"))
    assert {(record.codec, record.num_frames) for record in records} == {("mjpeg", 4)}
    assert {Fraction(*record.time_base) * record.pts[0][1] for record in records} == {Fraction(1, 12)}


def test_wrong_annotations_of_something_are_refused(put, tmp_path):
    with pytest.raises(ValueError, match=r"no annotations of Something-Something in .*labels.csv"):
        list_something(tmp_path)
    something_v2(tmp_path, "")
    text(tmp_path / "labels.json", json.dumps({"a": "0", "b": "2"}))
    with pytest.raises(ValueError, match=r"labels.json: expected .* indices 0, 1"):
        list_something(tmp_path)
    text(tmp_path / "labels.json", '{"a": "0", "b": "1", "a": "2"}')
    with pytest.raises(ValueError, match=r"labels.json: 'a' is given twice in one object: keep one of them"):
        list_something(tmp_path)
    text(tmp_path / "labels.json", json.dumps({"a": "0", "b": "1"}))
    with pytest.raises(ValueError, match=r"train.json, entry 0: .* known class"):
        list_something(tmp_path)
    text(tmp_path / "train.json", "{")
    with pytest.raises(ValueError, match=r"train.json is not a JSON file"):
        list_something(tmp_path)
    text(tmp_path / "something-something-v1-labels.csv", "a\n")
    with pytest.raises(ValueError, match=r"both versions of Something-Something"):
        list_something(tmp_path)


# --- Diving48


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_diving48(version, put, tmp_path):
    vocabulary = [
        ["Back", "15som", "05Twis", "FREE"],
        ["Forward", "Dive", "NoTwis", "PIKE"],
        ["Reverse", "a", "b", "c"],
    ]
    infix = "_V2" if version == "V2" else ""
    rows = {"train": [("dive_001", 2), ("dive_002", 0), ("dive_003", 1)], "test": [("dive_004", 0)]}
    for split, videos in rows.items():
        content = [
            {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 3} for name, label in videos
        ]
        text(tmp_path / f"Diving48{infix}_{split}.json", json.dumps(content))
    for name in ("dive_001", "dive_002", "dive_004"):
        put(tmp_path / "rgb" / f"{name}.mp4")
    listing = list_diving48(tmp_path)
    assert listing.classes == ("00", "01", "02")
    text(tmp_path / "Diving48_vocab.json", json.dumps(vocabulary))
    listing = list_diving48(tmp_path)
    names = tuple(" ".join(words) for words in vocabulary)
    assert (listing.dataset, listing.classes) == (f"Diving48 {version}", names)
    expected = {
        "train": {("rgb/dive_001.mp4", names[2]), ("rgb/dive_002.mp4", names[0])},
        "test": {("rgb/dive_004.mp4", names[0])},
    }
    assert found(listing) == packed(listing, tmp_path / "shards") == expected
    assert [(entry.source, reason) for entry, reason in listing.dropped] == [("dive_003", MISSING)]
    other = "" if infix else "_V2"
    shutil.copy(tmp_path / f"Diving48{infix}_train.json", tmp_path / f"Diving48{other}_train.json")
    with pytest.raises(ValueError, match=r"both versions of Diving48 .* give the version"):
        list_diving48(tmp_path)
    assert found(list_diving48(tmp_path, version=version)) == expected


def test_wrong_annotations_of_diving48_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no annotations of Diving48"):
        list_diving48(tmp_path)
    with pytest.raises(ValueError, match=r"version 'V3', allowed are V1, V2"):
        list_diving48(tmp_path, version="V3")
    text(tmp_path / "Diving48_train.json", json.dumps([{"vid_name": "a"}]))
    text(tmp_path / "Diving48_test.json", "[]")
    with pytest.raises(ValueError, match=r"Diving48_train.json, entry 0: expected a list of objects"):
        list_diving48(tmp_path)
    text(tmp_path / "Diving48_train.json", json.dumps([{"vid_name": "a", "label": 3}]))
    text(tmp_path / "Diving48_vocab.json", json.dumps([["a"]]))
    with pytest.raises(ValueError, match=r"expected a list of at least 4 classes"):
        list_diving48(tmp_path)


# --- Sports-1M


def sports1m(folder: Path, put) -> None:
    text(folder / "original" / "labels.txt", "cricket\nfencing\nrowing\n")
    url = "http://www.youtube.com/watch?v="
    text(
        folder / "original" / "train_partition.txt",
        f"{url}-L1J8UeUs 2\n{url}abc_def-gh 0,2\nhttps://youtu.be/gone5678901 1\n",
    )
    text(folder / "original" / "test_partition.txt", f"{url}testvideo01 1\n")
    put(folder / "videos" / "a" / "-L1J8UeUs.mp4", num_frames=100)  # 4 seconds
    put(folder / "videos" / "abc_def-gh.mkv", num_frames=30)
    put(folder / "videos" / "testvideo01.mp4", num_frames=10)


def test_sports1m_is_cut_into_clips(put, frame_numbers, tmp_path):
    sports1m(tmp_path, put)
    listing = list_sports1m(tmp_path, clip_seconds=1, progress=False)
    spans = Counter((entry.path.stem, entry.split) for entry in listing.entries)
    assert spans == {("-L1J8UeUs", "train"): 4, ("abc_def-gh", "train"): 1, ("testvideo01", "test"): 1}
    assert {(entry.label, entry.other_labels) for entry in listing.entries} == {
        ("rowing", ()),
        ("cricket", ("rowing",)),
        ("fencing", ()),
    }
    assert [(entry.source, reason) for entry, reason in listing.dropped] == [("gone5678901", MISSING)]
    pack_listing(listing, tmp_path / "shards", progress=False)
    shards = open_shards(tmp_path / "shards")
    lengths = {(record.source, record.span): record.num_frames for record in shards.samples("train")}
    assert lengths == {
        **{("videos/a/-L1J8UeUs.mp4", (float(start), float(start + 1))): 25 for start in range(4)},
        ("videos/abc_def-gh.mkv", (0.0, 1.0)): 25,
    }
    assert shards.manifest.dataset == "Sports-1M in clips of 1 s"
    assert shards.manifest.splits["train"].per_class == {"cricket": 1, "fencing": 0, "rowing": 4}


def test_sports1m_with_few_clips_of_a_video_or_whole(put, tmp_path):
    sports1m(tmp_path, put)
    listing = list_sports1m(tmp_path, clip_seconds=1, clips_per_video=2, progress=False)
    assert [entry.span for entry in listing.entries if entry.path.stem == "-L1J8UeUs"] == [(0, 1), (2, 3)]
    listing = list_sports1m(tmp_path, clip_seconds=None, progress=False)
    assert [entry.span for entry in listing.entries] == [None] * 3
    (tmp_path / "videos" / "testvideo01.mp4").write_bytes(b"no video")
    listing = list_sports1m(tmp_path, clip_seconds=1, progress=False)
    assert {
        entry.source for entry, reason in listing.dropped if "no video in a known container" in reason
    } == {"videos/testvideo01.mp4"}


def test_wrong_annotations_of_sports1m_are_refused(put, tmp_path):
    sports1m(tmp_path, put)
    with pytest.raises(ValueError, match=r"clip_seconds must be a finite number above 0, got -1"):
        list_sports1m(tmp_path, clip_seconds=-1)
    for number in ("inf", "nan"):
        with pytest.raises(ValueError, match=rf"clip_seconds must be a finite number above 0, got {number}"):
            list_sports1m(tmp_path, clip_seconds=float(number))
    with pytest.raises(ValueError, match=r"clips_per_video must be at least 1, got 0"):
        list_sports1m(tmp_path, clips_per_video=0)
    path = tmp_path / "original" / "test_partition.txt"
    for line in ("http://www.youtube.com/watch?v=a 3", "http://www.youtube.com/watch?v=a", "x y"):
        text(path, line)
        with pytest.raises(ValueError, match=r"test_partition.txt, line 1: .* labels of 0 to 2"):
            list_sports1m(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"no file test_partition.txt"):
        list_sports1m(tmp_path)


# --- UCF101 and HMDB51


@pytest.mark.parametrize("place", ["UCF-101/{label}/{name}", "{name}", "videos/{name}"])
def test_ucf101(place, put, tmp_path):
    lists = tmp_path / "ucfTrainTestlist"
    text(lists / "classInd.txt", "1 ApplyEyeMakeup\n2 YoYo\n")
    text(
        lists / "trainlist01.txt",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nYoYo/v_YoYo_g08_c02.avi 2\n",
    )
    text(lists / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi\r\nYoYo/v_YoYo_g01_c09.avi\r\n")
    expected: dict[str, set[tuple[str, str]]] = {"train": set(), "test": set()}
    for split, label, name in (
        ("train", "ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c01.avi"),
        ("train", "YoYo", "v_YoYo_g08_c02.avi"),
        ("test", "YoYo", "v_YoYo_g01_c01.avi"),
    ):
        source = place.format(label=label, name=name)
        put(tmp_path / source)
        expected[split].add((source, label))
    listing = list_ucf101(tmp_path)
    assert found(listing) == expected
    assert (listing.dataset, listing.classes) == ("UCF101 fold 1", ("ApplyEyeMakeup", "YoYo"))
    assert [(entry.source, reason) for entry, reason in listing.dropped] == [
        ("YoYo/v_YoYo_g01_c09.avi", MISSING)
    ]
    if "UCF" in place:
        assert packed(listing, tmp_path / "shards") == expected
    with pytest.raises(ValueError, match=r"no file trainlist02.txt"):
        list_ucf101(tmp_path, fold=2)
    with pytest.raises(ValueError, match=r"fold 4, allowed are 1, 2 and 3"):
        list_ucf101(tmp_path, fold=4)
    text(lists / "testlist01.txt", "Other/v_Other_g01_c01.avi\n")
    with pytest.raises(ValueError, match=r"testlist01.txt, line 1: .* a class of classInd.txt"):
        list_ucf101(tmp_path)
    text(lists / "classInd.txt", "1 A\n3 B\n")
    with pytest.raises(ValueError, match=r"classInd.txt, line 2: '3 B' is not '2 <class>'"):
        list_ucf101(tmp_path)


def test_hmdb51(put, tmp_path):
    names = ["#1 & (a)!;_cartwheel_f.avi", "same_name.avi", "unused.avi", "gone.avi"]
    text(
        tmp_path / "splits" / "cartwheel_test_split1.txt",
        f"{names[0]} 1 \n{names[1]} 2 \n{names[2]} 0 \n{names[3]} 2\n",
    )
    text(tmp_path / "splits" / "brush_hair_test_split1.txt", "same_name.avi 1 \n")
    for source in (
        f"cartwheel/{names[0]}",
        "cartwheel/same_name.avi",
        "cartwheel/unused.avi",
        "brush_hair/same_name.avi",
    ):
        put(tmp_path / "videos" / source)
    listing = list_hmdb51(tmp_path)
    expected = {
        "train": {
            (f"videos/cartwheel/{names[0]}", "cartwheel"),
            ("videos/brush_hair/same_name.avi", "brush_hair"),
        },
        "test": {("videos/cartwheel/same_name.avi", "cartwheel")},
    }
    assert found(listing) == packed(listing, tmp_path / "shards") == expected
    assert (listing.dataset, listing.classes) == ("HMDB51 fold 1", ("brush_hair", "cartwheel"))
    assert listing.notes == ("1 videos are in neither split of fold 1",)
    assert [(entry.source, reason) for entry, reason in listing.dropped] == [("cartwheel/gone.avi", MISSING)]
    text(tmp_path / "splits" / "cartwheel_test_split1.txt", "a.avi 3\n")
    with pytest.raises(ValueError, match=r"cartwheel_test_split1.txt, line 1: 'a.avi 3'"):
        list_hmdb51(tmp_path)
    with pytest.raises(ValueError, match=r"no file <class>_test_split2.txt"):
        list_hmdb51(tmp_path, fold=2)


# --- pictures in folders and csv files


def test_folders_of_pictures_are_videos_where_their_rate_is_given(put, make_picture, tmp_path):
    for name in ("a/clip 1", "a/more/clip 2", "b/clip"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for frame in range(3):
            (tmp_path / "videos" / name / f"{frame}.jpg").write_bytes(make_picture(frame))
    with pytest.raises(ValueError, match=r"folders of pictures are taken when their frame rate is given"):
        list_folder(tmp_path / "videos")
    put(tmp_path / "videos" / "b" / "film.mp4")
    listing = list_folder(tmp_path / "videos", frame_rate=Fraction(30000, 1001))
    expected = {("a/clip 1", "a"), ("a/more/clip 2", "a"), ("b/clip", "b"), ("b/film.mp4", "b")}
    assert found(listing) == packed(listing, tmp_path / "shards") == {"train": expected}
    table = text(tmp_path / "list.csv", "path,label\nvideos/a/clip 1,x\nvideos/b/film.mp4,y\n")
    listing = list_csv(table, frame_rate=Fraction(25))
    assert packed(listing, tmp_path / "csv") == {
        "train": {("videos/a/clip 1", "x"), ("videos/b/film.mp4", "y")}
    }
