"""Evaluation goes on past videos that cannot be read, and says which they are."""

import csv
import json
import shutil
import threading
from dataclasses import dataclass, field

import pytest
import torch
from typer.testing import CliRunner

from corrnet_models import create_model, save_pretrained
from corrnet_train.cli import app
from corrnet_train.distributed.ranks import Ranks
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from video_data import ClipConfig, open_shards

CLIP = ClipConfig(num_frames=8, crop_size=32)
BROKEN = (1, 6, 15)


@pytest.fixture(scope="module")
def broken(motionbench, tmp_path_factory):
    """The shards, with three test videos that are zeros."""
    folder = tmp_path_factory.mktemp("broken") / "shards"
    shutil.copytree(motionbench[1], folder)
    shards = open_shards(folder)
    first = {
        name: shards.shard_indices(name)
        for name in (s.name for s in shards.manifest.shards)
        if "test" in name
    }
    for index in BROKEN:
        name = next(name for name, indices in first.items() if index in indices)
        record = shards.sample("test", index)
        with (folder / f"{name}.tar").open("r+b") as file:
            file.seek(record.offset)
            file.write(bytes(record.size))
    return open_shards(folder)


@pytest.fixture(scope="module")
def classifier(broken):
    torch.manual_seed(0)
    model = create_model("r2d_tiny", num_frames=8, num_classes=8)
    return VideoClassifier(model, classes=list(broken.classes), clip=CLIP, device=torch.device("cpu"))


@dataclass(frozen=True)
class Thread(Ranks):
    """A process that shares an evaluation, played by a thread."""

    barrier: threading.Barrier | None = None
    given: dict = field(default_factory=dict)

    def gather(self, value):
        self.given[self.rank] = value
        self.barrier.wait(60)
        values = [self.given[rank] for rank in range(self.world_size)]
        self.barrier.wait(60)
        return values


def test_videos_that_cannot_be_read_are_named_and_the_others_counted(classifier, broken, motionbench, caplog):
    whole = evaluate(classifier, open_shards(motionbench[1]), "test", num_clips=2)
    seen = []
    result = evaluate(classifier, broken, "test", num_clips=2, batch_size=5, on_batch=seen.append)
    assert [entry.number for entry in result.unreadable] == list(BROKEN)
    records = list(broken.samples("test"))
    assert [(e.key, e.source) for e in result.unreadable] == [
        (records[i].key, records[i].source) for i in BROKEN
    ]
    assert all("nothing but zeros" in entry.message for entry in result.unreadable)
    assert result.predictions == [p for i, p in enumerate(whole.predictions) if i not in BROKEN]
    assert result.num_videos == sum(map(sum, result.confusion)) == 13
    right = sum(max(range(8), key=p.probabilities.__getitem__) == p.label for p in result.predictions)
    assert result.video_top1 == pytest.approx(right / 13)
    assert sum(seen) == 16  # the bar comes to its end
    assert (
        f"3 of 16 videos of split test cannot be read and are not counted; the first is {records[1].key}"
        in caplog.text
    )
    assert not whole.unreadable and whole.fingerprint["videos"] == 16
    counts = ("videos", "videos packed", "videos listed")
    assert [result.fingerprint[name] for name in counts] == [13, 16, 16]
    assert result.fingerprint["data set"] == broken.manifest.dataset


def test_processes_that_share_a_split_name_the_same_videos(classifier, broken):
    alone = evaluate(classifier, broken, "test", num_clips=1)
    barrier, given, results = threading.Barrier(2), {}, {}

    def run(rank):
        ranks = Thread(rank=rank, world_size=2, barrier=barrier, given=given)
        results[rank] = evaluate(classifier, broken, "test", num_clips=1, ranks=ranks)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for result in results.values():
        assert result.unreadable == alone.unreadable
        assert [p.key for p in result.predictions] == [p.key for p in alone.predictions]
        assert (result.clip_top1, result.confusion) == (alone.clip_top1, alone.confusion)


@pytest.fixture(scope="module")
def command(classifier, broken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    metadata = {"clip": CLIP.model_dump(mode="json")}
    save_pretrained(classifier.model, folder, classes=classifier.classes, metadata=metadata)
    return [
        "eval",
        str(folder),
        str(broken.path),
        "--split",
        "test",
        "--num-clips",
        "1",
        "--num-workers",
        "0",
    ]


def test_the_command_writes_them_and_says_so_with_its_exit_code(command, broken, tmp_path):
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 3, result.output
    sources = [broken.sample("test", index).source for index in BROKEN]
    named = [line.split(": ")[1] for line in result.stderr.splitlines() if line.startswith("not counted")]
    assert named == sources
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["num_videos"], written["num_unreadable"]) == (13, 3)
    assert [entry["source"] for entry in written["unreadable"]] == sources
    rows = list(csv.DictReader((tmp_path / "unreadable.csv").open()))
    assert [row["source"] for row in rows] == sources and all(row["reason"] for row in rows)
    page = (tmp_path / "report.html").read_text()
    assert "3 more could not be read" in page and all(source in page for source in sources)
    assert not (tmp_path / "unfinished.jsonl").exists()


def test_of_many_that_are_not_counted_the_first_are_told_and_the_number(command, broken, monkeypatch):
    monkeypatch.setattr("corrnet_train.cli.evaluate._MOST_LINES", 1)
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    told = [line for line in result.stderr.splitlines() if line.startswith(("not counted", "and "))]
    assert told[0].startswith("not counted: ") and told[1:] == [
        "and 2 more; --output FOLDER writes all of them"
    ]


def test_a_stopped_evaluation_goes_on_to_the_same_result(classifier, broken, tmp_path, caplog):
    options = {"num_clips": 2, "batch_size": 3}
    whole = evaluate(classifier, broken, "test", **options)
    journal = tmp_path / "new" / "unfinished.jsonl"
    done = []

    def stop(num_videos):
        done.append(num_videos)
        if sum(done) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(classifier, broken, "test", **options, journal=journal, on_batch=stop)
    with journal.open("a") as file:
        file.write('{"videos": [[9, "half a li')  # as a kill leaves it
    seen = []
    resumed = evaluate(classifier, broken, "test", **options, journal=journal, on_batch=seen.append)
    assert (done, seen) == ([0, 3, 3, 3], [9, 3, 3, 1])
    assert resumed == whole
    seen.clear()  # the file still has what was done before the stop
    assert evaluate(classifier, broken, "test", **options, journal=journal, on_batch=seen.append) == whole
    assert seen == [16]
    content = journal.read_bytes()
    lines = content.split(b"\n")
    lines[1] = lines[1].replace(b"A", b"B", 1)  # another probability
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"line 2 of .*unfinished.jsonl is damaged .*: remove the file"):
        evaluate(classifier, broken, "test", **options, journal=journal)
    journal.write_bytes(content)
    caplog.clear()
    seen.clear()
    other = evaluate(
        classifier, broken, "test", **{**options, "num_clips": 1}, journal=journal, on_batch=seen.append
    )
    assert seen[0] == 0 and other.num_clips == 1
    assert "with views 2 clips x 1 center crop, now it is 1 clips x 1 center crop: all videos" in caplog.text
    with pytest.raises(ValueError, match="num_crops must be 1 or 3, got 2"):
        evaluate(classifier, broken, "test", num_crops=2, journal=tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()
    with pytest.raises(ValueError, match="a journal is for one process, got 2"):
        evaluate(classifier, broken, "test", journal=journal, ranks=Thread(world_size=2))


def test_ctrl_c_says_that_the_same_command_goes_on(command, tmp_path, monkeypatch):
    probabilities, calls = VideoClassifier.video_scores, []

    def interrupted(self, views):
        calls.append(len(views))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return probabilities(self, views)

    monkeypatch.setattr(VideoClassifier, "video_scores", interrupted)
    arguments = [*command, "--output", str(tmp_path)]
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130 and "the same command goes on where it was" in stopped.stderr
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3 and sum(calls) == 16 + 4  # the batch in which it was stopped comes twice
    assert json.loads((tmp_path / "result.json").read_text())["num_videos"] == 13


def test_a_split_of_which_nothing_can_be_read_is_an_error(classifier, motionbench, tmp_path):
    shutil.copytree(motionbench[1], tmp_path / "shards")
    shards = open_shards(tmp_path / "shards")
    for file in (tmp_path / "shards").glob("val-*.tar"):
        file.unlink()
    with pytest.raises(
        RuntimeError, match=r"none of the 8 videos of split val can be read; the first is .*No such file"
    ):
        evaluate(classifier, shards, "val", num_clips=1)
