"""Shards behind URLs: fetched once, verified, in a cache that stays small."""

import functools
import http.server
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch

from video_data import (
    ClipConfig,
    PackOptions,
    ShardError,
    eval_loader,
    open_shards,
    pack_folder,
    train_loader,
)
from video_data.shards import _remote as remote_module
from video_data.utils import remote

fsspec = pytest.importorskip("fsspec")

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))


@pytest.fixture(scope="module")
def local(class_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    pack_folder(class_folder, path, options=PackOptions(mode="copy", shard_size=4), progress=False)
    return path


@pytest.fixture
def in_memory(local):
    """The set behind memory://, which this process alone sees."""
    system = fsspec.filesystem("memory")
    for path in local.iterdir():
        system.pipe_file(f"/shards/{path.name}", path.read_bytes())
    yield "memory://shards"
    system.rm("/shards", recursive=True)


@pytest.fixture
def over_http(local):
    """A server, and how often each file was asked for."""
    pytest.importorskip("aiohttp")
    asked: Counter[str] = Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path.rsplit("/", 1)[-1]] += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=local)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def over_s3(local):
    """The set in a bucket of a server that speaks S3."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-west-1"},
    }
    system = fsspec.filesystem("s3", **options)
    system.mkdir("bucket")
    for path in local.iterdir():
        system.pipe_file(f"bucket/shards/{path.name}", path.read_bytes())
    yield "s3://bucket/shards", options
    server.stop()


def everything(shards, **options):
    batches = list(train_loader(shards, "train", CLIP, batch_size=6, seed=1, **options))
    assert not any(batch.replaced for batch in batches)
    return [key for batch in batches for key in batch.keys], torch.cat([batch.video for batch in batches])


def assert_reads_as_local(local, shards, **options):
    keys, video = everything(open_shards(local))
    remote_keys, remote_video = everything(shards, **options)
    assert remote_keys == keys
    assert torch.equal(remote_video, video)
    assert shards.manifest_hash == open_shards(local).manifest_hash


def cached(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def test_memory(local, in_memory, tmp_path):
    shards = open_shards(in_memory, cache=tmp_path)
    assert_reads_as_local(local, shards)
    files = {path.read_bytes() for path in local.glob("train-*")}
    assert {path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    assert len(next(iter(eval_loader(shards, "train", CLIP, num_clips=2))).keys) == 1


@pytest.mark.slow
def test_http_with_workers_that_share_a_cache(local, over_http, tmp_path):
    url, asked = over_http
    assert_reads_as_local(local, open_shards(url, cache=tmp_path), num_workers=2)
    assert {name: count for name, count in asked.items() if name.startswith("train")} == {
        path.name: 1 for path in local.glob("train-*")
    }
    assert_reads_as_local(local, open_shards(url, cache=tmp_path))
    assert asked["train-000000.tar"] == 1


def test_s3(local, over_s3, tmp_path):
    url, options = over_s3
    assert_reads_as_local(local, open_shards(url, cache=tmp_path, storage_options=options))
    with pytest.raises(ValueError, match="no finished shard set at s3://bucket/none"):
        open_shards("s3://bucket/none", cache=tmp_path, storage_options=options)


def test_the_cache_stays_within_its_bound(local, in_memory, tmp_path):
    sizes = sorted(path.stat().st_size for path in local.glob("train-*.tar"))
    bound = 3 * sizes[-1]
    shards = open_shards(in_memory, cache=tmp_path, cache_bytes=bound)
    for index in (*range(0, 24, 2), *range(23, 0, -3)):
        assert shards.read("train", index) == open_shards(local).read("train", index)
        assert sum(cached(tmp_path).values()) <= bound
    with pytest.raises(
        ValueError, match=f"cache_bytes must be at least the largest shard, {sizes[-1]}, got 10"
    ):
        open_shards(in_memory, cache=tmp_path, cache_bytes=10)
    assert open_shards(in_memory, cache=tmp_path, cache_bytes=sizes[-1]).read("train", 0)


def test_files_that_were_not_fetched_stay_in_a_folder_that_serves_as_cache(local, in_memory, tmp_path):
    (tmp_path / "mine.mp4").write_bytes(b"mine" * 100_000)
    size = max(path.stat().st_size for path in local.glob("train-*.tar"))
    shards = open_shards(in_memory, cache=tmp_path, cache_bytes=size)
    assert shards.read("train", 0) and shards.read("train", 23)
    assert (tmp_path / "mine.mp4").exists()


SHARING = """
import random, sys
from video_data import open_shards
url, path, cache, size, seed = sys.argv[1:]
local, rng = open_shards(path), random.Random(seed)
for _ in range(30):
    shards = open_shards(url, cache=cache, cache_bytes=int(size))
    for index in rng.sample(range(24), 4):
        assert shards.read("train", index) == local.read("train", index)
"""


@pytest.mark.slow
def test_processes_share_a_cache_that_is_too_small_for_them(local, tmp_path):
    size = int(2.2 * max(path.stat().st_size for path in local.glob("train-*.tar")))
    command = [sys.executable, "-c", SHARING, local.as_uri(), local, tmp_path, str(size)]
    processes = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE) for seed in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert sum(cached(tmp_path).values()) <= size


def test_what_was_used_last_stays(local, in_memory, tmp_path):
    largest = max(path.stat().st_size for path in local.glob("train-*.tar"))
    tars = {entry.name: entry.sha256 for entry in open_shards(local).manifest.shards}
    for index in (0, 4, 0, 8):  # a new set each time, as another process would open it
        open_shards(in_memory, cache=tmp_path, cache_bytes=int(2.7 * largest)).read("train", index)
    assert tars["train-000000"] in cached(tmp_path)
    assert tars["train-000001"] not in cached(tmp_path)


def test_a_file_with_other_bytes_is_refused_and_not_kept(in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    system = fsspec.filesystem("memory")
    content = bytearray(system.cat_file("/shards/train-000001.tar"))
    content[1000] ^= 1
    system.pipe_file("/shards/train-000001.tar", bytes(content))
    shards = open_shards(in_memory, cache=tmp_path)
    with pytest.raises(ShardError, match="without the hash in the manifest") as error:
        shards.read("train", 5)
    assert error.value.reason == "a shard cannot be read"
    assert shards.manifest.shards[1].sha256 not in cached(tmp_path)
    loader = train_loader(shards, "train", CLIP, batch_size=24, seed=0, error_budget=1)
    (batch,) = list(loader)
    assert loader.replaced == {"a shard cannot be read": len(batch.replaced)}
    assert len({sample.key for sample in batch.replaced}) == 4


def test_a_cached_file_that_was_cut_is_fetched_again(local, in_memory, tmp_path):
    entry = open_shards(local).manifest.shards[0]
    (tmp_path / entry.sha256).write_bytes(b"cut")
    assert open_shards(in_memory, cache=tmp_path).read("train", 0) == open_shards(local).read("train", 0)


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert remote_module.default_cache() == tmp_path / ".cache" / "video-data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert remote_module.default_cache() == tmp_path / "other" / "video-data"


def test_a_missing_set_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no finished shard set at memory://nothing"):
        open_shards("memory://nothing", cache=tmp_path)

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ImportError, match=r"Install s3fs.*video-data\[s3\]"):
        open_shards("s3://bucket/set", cache=tmp_path)
