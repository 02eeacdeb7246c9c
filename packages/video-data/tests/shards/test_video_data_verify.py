"""Verifying a set finds every way in which it can differ from what was packed."""

import errno
import functools
import hashlib
import http.server
import io
import json
import shutil
import signal
import threading
import time
from collections import Counter

import pytest

from video_data import PackOptions, open_shards, pack_folder, verify_shards
from video_data.shards import verify as verify_module


@pytest.fixture(scope="module")
def packed(class_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack_folder(class_folder, folder, options=PackOptions(mode="copy", shard_size=10), progress=False)
    return folder


@pytest.fixture
def shards(packed, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(packed, tmp_path / "shards")


def verify(folder, **options):
    return verify_shards(folder, progress=False, **options)


def reasons(report):
    return Counter((problem.file, problem.reason) for problem in report.problems)


def change_index(folder, name, change):
    """Lets `change` edit the index of a shard, and makes the manifest agree with the file that results."""
    path, manifest_path = folder / f"{name}.json", folder / "manifest.json"
    index, manifest = json.loads(path.read_text()), json.loads(manifest_path.read_text())
    change(index["samples"])
    path.write_text(json.dumps(index))
    entry = next(entry for entry in manifest["shards"] if entry["name"] == name)
    entry["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest_path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_sound_set_has_no_problems(packed, num_workers):
    report = verify(packed, num_workers=num_workers)
    assert report.problems == ()
    assert (report.num_shards, report.num_samples, report.num_checked) == (3, 24, 24)
    assert report.num_frames == 24 * 8
    assert report.manifest_hash == open_shards(packed).manifest_hash
    assert verify(packed, decode=False).num_frames == 0


def test_one_flipped_bit_is_found_in_its_sample_alone(shards):
    record = open_shards(shards).sample("train", 12)
    tar = shards / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset + record.size // 2] ^= 1
    tar.write_bytes(content)
    report = verify(shards, decode=False)
    assert [(problem.key, problem.reason) for problem in report.problems] == [
        ("", "hash is not the one in the manifest"),
        (record.key, "hash is not the one in the index"),
    ]
    assert report.problems[1].source == record.source
    assert report.num_checked == 24


def test_a_video_that_does_not_decode_says_why(shards):
    record = open_shards(shards).sample("train", 20)
    tar = shards / "train-000002.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset : record.offset + record.size] = bytes(record.size)
    tar.write_bytes(content)
    (problem,) = [p for p in verify(shards).problems if p.reason.startswith("does not decode")]
    assert problem.key == record.key
    assert "nothing but zeros" in problem.message


def test_a_tar_that_ends_early_keeps_its_sound_samples(shards):
    records = list(open_shards(shards).samples("train"))[:10]
    tar = shards / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[: records[7].offset + 5])
    report = verify(shards)
    wrong = Counter((problem.key, problem.reason) for problem in report.problems)
    assert wrong == Counter(
        [
            ("", "size is not the one in the manifest"),
            (records[7].key, "tar ends early"),
            *((record.key, reason) for record in records[8:]
              for reason in ("tar ends early", "member is not where the index says")),
        ]
    )  # fmt: skip
    assert report.num_frames == (24 - 3) * 8


def test_missing_damaged_and_unlisted_files_are_named_once(shards):
    (shards / "train-000000.tar").unlink()
    index = shards / "train-000001.json"
    index.write_bytes(index.read_bytes() + b" ")
    for name in ("train-000003.tar", "train-000002-01.tar"):  # the second as of a group of too many bytes
        shutil.copy(shards / "train-000002.tar", shards / name)
    report = verify(shards)
    assert reasons(report) == {
        ("train-000000.tar", "file is missing"): 1,
        ("train-000001.json", "hash is not the one in the manifest"): 1,
        ("train-000002-01.tar", "file is not in the manifest"): 1,
        ("train-000003.tar", "file is not in the manifest"): 1,
    }
    assert "10 samples were not checked" in report.problems[0].message
    assert report.num_checked == 4


def test_a_bad_block_of_a_disk_costs_its_samples_alone(shards, monkeypatch):
    records = list(open_shards(shards).samples("train"))[:10]

    class BadBlock(io.BytesIO):
        def read(self, size=-1):
            start, content = self.tell(), super().read(size)
            if start <= records[3].offset < start + len(content):
                raise OSError(errno.EIO, "Input/output error")
            return content

    def open_file(files, shard, suffix):
        content = (shards / f"{shard.name}.{suffix}").read_bytes()
        return (BadBlock if (shard.name, suffix) == ("train-000000", "tar") else io.BytesIO)(content)

    monkeypatch.setattr(verify_module, "_open", open_file)
    report = verify(shards)
    assert [(problem.key, problem.reason) for problem in report.problems] == [
        ("", "file cannot be read"),
        (records[3].key, "file cannot be read"),
    ]
    assert report.num_frames == 23 * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32}, "size 64x64, the index says 32x64"),
        ({"codec": "hevc"}, "codec h264, the index says hevc"),
        ({"rotation": 90}, "rotation 0, the index says 90"),
        ({"num_frames": 7, "pts": [[0, 640, 7]]}, "number of frames 8, the index says 7"),
        ({"pts": [[0, 640, 6], [3841, 640, 2]]}, "2 of 8 frames have other times"),
        ({"keyframes": [[0, 2, 2]]}, "other keyframes than in the index"),
        ({"pts": [[0, 640, 7]]}, "must list 8 increasing times"),
    ],
)
def test_an_index_that_describes_another_video_is_found_by_decoding(shards, change, message):
    change_index(shards, "train-000002", lambda samples: samples[1].update(change))
    report = verify(shards)
    (problem,) = report.problems
    assert problem.key == open_shards(shards).sample("train", 21).key
    assert message in problem.message
    assert report.num_frames == (23 if problem.reason == "an index is wrong" else 24) * 8
    assert verify(shards, decode=False).problems == ()


def test_an_index_that_cannot_be_used_is_named_with_what_was_not_checked(shards):
    (shards / "train-000000.json").unlink()
    change_index(shards, "train-000001", lambda samples: samples[0].update({"label": 7}))
    missing, wrong = verify(shards).problems
    assert (missing.file, missing.reason) == ("train-000000.json", "file is missing")
    assert missing.message.endswith("; 10 samples were not checked")
    assert (wrong.file, wrong.reason) == ("train-000001.json", "an index is wrong")
    assert "has label 7, there are 3 classes; its 10 samples were not checked one by one" in wrong.message


def test_members_keys_and_counts_are_compared(shards):
    def change(samples):
        samples[2]["label"] = (samples[2]["label"] + 1) % 3
        samples[3]["key"] = samples[0]["key"]

    change_index(shards, "train-000002", change)
    assert Counter(problem.reason for problem in verify(shards).problems) == {
        "member is not where the index says": 1,
        "two samples with one key": 1,
        "counts differ from the indexes": 2,
    }


def test_what_is_no_shard_set_is_an_error(tmp_path, shards):
    with pytest.raises(ValueError, match="no folder of shards"):
        verify(tmp_path / "none")
    (shards / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="manifest"):
        verify(shards)


def test_shards_behind_a_url_are_fetched_anew(shards, tmp_path):
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=shards)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url, cache = f"http://127.0.0.1:{server.server_port}", tmp_path / "cache"
            assert verify(url, cache=cache).problems == ()
            cached = open_shards(url, cache=cache)
            cached.read("train", 0)
            record = cached.sample("train", 0)
            tar = shards / "train-000000.tar"
            content = bytearray(tar.read_bytes())
            content[record.offset + 100] ^= 1
            tar.write_bytes(content + b"more")
            report = verify(url, cache=cache, decode=False)
        finally:
            server.shutdown()
            thread.join()
    assert [(problem.key, problem.reason) for problem in report.problems] == [
        ("", "size is not the one in the manifest"),
        (record.key, "hash is not the one in the index"),
    ]
    assert not [path for path in cache.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 3])  # while the server of workers starts, at work
def test_ctrl_c_ends_verifying_at_once_and_leaves_no_process(seconds, make_video, scripts, tmp_path):
    for label in "ab":
        path = tmp_path / "videos" / label / "video.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(make_video(range(100), size=(640, 360), options={"preset": "ultrafast"}))
    options = PackOptions(mode="copy", shard_size=1)
    pack_folder(tmp_path / "videos", tmp_path / "shards", options=options, progress=False)
    script = (
        "import sys\nfrom video_data import verify_shards\n"
        "def main():\n"
        "    print('start', flush=True)\n"
        "    while True: verify_shards(sys.argv[1], num_workers=2, progress=False)\n"
        "if __name__ == '__main__': main()"
    )
    process = scripts(script, tmp_path / "shards")
    assert process.wait_for_lines(1) == ["start"]
    time.sleep(seconds)
    process.kill(signal.SIGINT)
    assert process.wait() != 0
    assert process.errors.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 60
    while process.members():
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)
