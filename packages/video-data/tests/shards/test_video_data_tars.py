"""Members of foreign tars are taken or refused one by one."""

import io
import pickle
import random
import re
import tarfile

import pytest

from video_data.shards.untrusted_tar import tar_samples
from video_data.utils.error_budget import ErrorBudget


def write_tar(path, members, *, format=tarfile.USTAR_FORMAT):
    """Members are (name, content) or a TarInfo."""
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def read(path, allowed=100):
    budget = ErrorBudget(allowed)
    return list(tar_samples(path, budget)), budget.counts


GOOD = [("a.mp4", b"video a"), ("a.json", b"{}"), ("./dir/b.webm", b"video b"), ("dir/b.cls", b"3")]


def test_good_members_become_samples(tmp_path):
    path = tmp_path / "good.tar"
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        write_tar(path, GOOD, format=format)
        samples, counts = read(path)
        assert samples == [
            {"__key__": "a", "__url__": str(path), "mp4": b"video a", "json": b"{}"},
            {"__key__": "dir/b", "__url__": str(path), "webm": b"video b", "cls": b"3"},
        ]
        assert not counts


BAD = [
    (("../evil.mp4", b"x"), "name outside of the tar"),
    (("a/../../evil.mp4", b"x"), "name outside of the tar"),
    (("/etc/evil.mp4", b"x"), "name outside of the tar"),
    (("..\\evil.mp4", b"x"), "name outside of the tar"),
    (("pipe:cat.mp4", b"x"), "name outside of the tar"),
    ((special("link.mp4", tarfile.SYMTYPE, "/etc/passwd")), "not a regular file"),
    ((special("hard.mp4", tarfile.LNKTYPE, "a.mp4")), "not a regular file"),
    ((special("device.mp4", tarfile.CHRTYPE)), "not a regular file"),
    ((special("block.mp4", tarfile.BLKTYPE)), "not a regular file"),
    ((special("fifo.mp4", tarfile.FIFOTYPE)), "not a regular file"),
    ((special("folder", tarfile.DIRTYPE)), "not a regular file"),
    (("a.pth", pickle.dumps([1])), "ending that is not allowed"),
    (("a.pkl", pickle.dumps([1])), "ending that is not allowed"),
    (("a.npy", b"x"), "ending that is not allowed"),
    (("vid.v1.mp4", b"x"), "not one dot in the name"),
    (("nothing", b"x"), "not one dot in the name"),
    ((".mp4", b"x"), "not one dot in the name"),
    (("a.mp4", b"again"), "two members with one name"),
    (("big.json", bytes((1 << 20) + 1)), "too many bytes"),
]


@pytest.mark.parametrize(("member", "reason"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_member_is_refused_and_the_rest_is_read(member, reason, tmp_path):
    path = tmp_path / "bad.tar"
    write_tar(path, [*GOOD[:2], member, *GOOD[2:]])
    samples, counts = read(path)
    assert counts == {reason: 1}
    assert [sample["__key__"] for sample in samples] == ["a", "dir/b"]
    assert samples[0]["mp4"] == b"video a"
    assert not (tmp_path.parent / "evil.mp4").exists()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_in_extended_headers_are_refused(format, tmp_path):
    path = tmp_path / "long.tar"
    write_tar(path, [GOOD[0], ("x" * 300 + ".mp4", b"x"), GOOD[2]], format=format)
    samples, counts = read(path)
    assert counts == {"name in an extended header": 1}
    assert [sample["__key__"] for sample in samples] == ["a", "dir/b"]


def test_a_tar_that_ends_early_is_counted(tmp_path):
    path = tmp_path / "cut.tar"
    write_tar(path, GOOD)
    whole = path.read_bytes()
    for size in (0, 100, 512, 600, 1024, 1600, 2 * 1024):
        path.write_bytes(whole[:size])
        samples, counts = read(path)
        assert counts == {"a tar is damaged or ends early": 1}
        assert len(samples) <= 2
    with pytest.raises(RuntimeError, match=re.escape(f"Last one: {path}")):
        read(path, allowed=0)


def test_a_member_that_declares_more_than_there_is_is_refused(tmp_path):
    path = tmp_path / "absurd.tar"
    info = tarfile.TarInfo("a.mp4")
    info.size = 1 << 60
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    samples, counts = read(path)
    assert (samples, counts) == ([], {"a tar is damaged or ends early": 1})


def test_damaged_tars_are_read_or_refused(tmp_path):
    path = tmp_path / "damaged.tar"
    write_tar(path, GOOD, format=tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 8, 64))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        samples, counts = read(path)
        assert all(set(sample) <= {"__key__", "__url__", "mp4", "json", "webm", "cls"} for sample in samples)
        outcomes.add(bool(counts))
    assert outcomes == {False, True}


def test_too_many_refused_members_stop_the_reading(tmp_path):
    path = tmp_path / "bad.tar"
    write_tar(path, [(f"{number}.pkl", b"x") for number in range(5)])
    with pytest.raises(
        RuntimeError, match=r"3 samples could not be read, the error budget allows 2 .* 3 x ending that"
    ) as error:
        read(path, allowed=2)
    assert f"{path}: 2.pkl" in str(error.value)
