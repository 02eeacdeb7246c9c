"""Shards behind servers that misbehave, and caches in which files are damaged."""

import errno
import functools
import http.server
import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from video_data import (
    ClipConfig,
    InputError,
    PackOptions,
    RemoteError,
    ShardError,
    open_shards,
    pack_folder,
    train_loader,
    verify_shards,
)
from video_data.utils import remote

pytest.importorskip("fsspec")
aiohttp = pytest.importorskip("aiohttp")
fcntl = pytest.importorskip("fcntl")

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
FIRST = "train-000000"


@pytest.fixture(scope="module")
def local(class_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    pack_folder(class_folder, path, options=PackOptions(mode="copy", shard_size=4), progress=False)
    return path


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.01)


class Server:
    """What a server does wrong with a file, how often, and how often each file was asked for."""

    def __init__(self, url):
        self.url = url
        self.asked = Counter()
        self.faults = {}

    def answers(self, name, how, times=1000):
        """Have the next requests for a file answered by `how(handler)`."""
        self.faults[name] = [how] * times


@contextmanager
def serving(folder):
    server = Server("")

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            name = self.path.rsplit("/", 1)[-1]
            server.asked[name] += 1
            if server.faults.get(name):
                server.faults[name].pop()(self)
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as httpd:
        httpd.daemon_threads = True
        server.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield server
        httpd.shutdown()
        thread.join()


@pytest.fixture
def server(local):
    with serving(local) as server:
        yield server


def status(number, **headers):
    def answer(handler):
        handler.send_response(number)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def cut(handler):
    """Promise more than is sent."""
    content = open(handler.translate_path(handler.path), "rb").read()  # noqa: PTH123, SIM115
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def silent(handler):
    """Take the request, and never answer."""
    handler.rfile.read(1)


def stuck(handler):
    """Stop in the middle of the content."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(bytes(1000))
    handler.wfile.flush()
    handler.rfile.read(1)


def flipped(handler):
    """Send the whole file with one other bit."""
    content = bytearray(open(handler.translate_path(handler.path), "rb").read())  # noqa: PTH123, SIM115
    content[len(content) // 2] ^= 1
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.copyfile(io.BytesIO(content), handler.wfile)


QUICKLY = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=0.5, sock_read=0.5)}}


@pytest.mark.parametrize("name", ["manifest.json", f"{FIRST}.json", f"{FIRST}.tar"])
@pytest.mark.parametrize("how", [status(500), status(503), status(429), cut, flipped, silent, stuck])
def test_a_fault_that_passes_is_survived(name, how, server, local, tmp_path):
    if name == "manifest.json" and how is flipped:
        pytest.skip("nothing says what the manifest should be")
    server.answers(name, how, times=2)
    shards = open_shards(server.url, cache=tmp_path, storage_options=QUICKLY)
    assert shards.read("train", 0) == open_shards(local).read("train", 0)
    assert server.asked[name] == 3


@pytest.mark.parametrize(
    ("number", "text"),
    [(500, "500 Internal Server Error"), (503, "503 Service Unavailable"), (429, "429 Too Many Requests")],
)
def test_a_fault_that_stays_is_called_what_it_is(number, text, server, tmp_path):
    server.answers(f"{FIRST}.tar", status(number))
    shards = open_shards(server.url, cache=tmp_path)
    with pytest.raises(ShardError, match=rf"RemoteError: .*/{FIRST}.tar: {text}, after 3 tries"):
        shards.read("train", 0)
    assert server.asked[f"{FIRST}.tar"] == 3
    server.answers("manifest.json", status(number))
    with pytest.raises(RemoteError, match=rf"^{server.url}/manifest.json: {text}, after 3 tries$"):
        open_shards(server.url, cache=tmp_path)


@pytest.mark.parametrize(
    ("number", "text"), [(401, "401 Unauthorized"), (403, "403 Forbidden"), (404, "no finished shard set")]
)
def test_what_does_not_pass_is_not_tried_again(number, text, server, tmp_path):
    server.answers("manifest.json", status(number))
    with pytest.raises(InputError, match=text):
        open_shards(server.url, cache=tmp_path)
    assert server.asked["manifest.json"] == 1
    server.answers("manifest.json", status(number), times=0)
    server.answers(f"{FIRST}.tar", status(number))
    with pytest.raises(ShardError, match=str(number)):
        open_shards(server.url, cache=tmp_path).read("train", 0)
    assert server.asked[f"{FIRST}.tar"] == 1


def test_retry_after_is_respected_within_reason(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    dates = [formatdate(time.time() + 20, usegmt=True), "Thu, 01 Jan 1970 00:00:00 GMT", "soon"]
    for header in ("7", "100000", *dates):
        server.answers("manifest.json", status(503, Retry_After=header), times=1)
        open_shards(server.url, cache=tmp_path)
    assert pauses[:2] == [7, 30] and 15 < pauses[2] <= 20 and pauses[3:] == [0.01, 0.01]


def test_a_server_that_never_answers_is_named_early_and_given_up(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(remote, "_SAID_AFTER", 0.1)
    host = server.url.removeprefix("http://")
    server.answers("manifest.json", silent)
    with pytest.raises(RemoteError, match=f"manifest.json: no answer of {host} in time, after 3 tries"):
        open_shards(server.url, cache=tmp_path, storage_options=QUICKLY)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"waiting for an answer of {host} to a request for {server.url}/manifest.json"
    assert "trying again in 0.01 s (try 2 of 3)" in messages[1]
    assert len(messages) == 5  # three times waiting, two times trying again


def test_fetches_have_a_limit_for_silence_and_none_for_long_files(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE", 0.5)
    server.answers(f"{FIRST}.tar", stuck, times=1)

    def slow(handler):
        handler.send_response(200)
        content = open(handler.translate_path(handler.path), "rb").read()  # noqa: PTH123, SIM115
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for start in range(0, len(content), len(content) // 5):
            handler.wfile.write(content[start : start + len(content) // 5])
            handler.wfile.flush()
            time.sleep(0.2)

    server.answers(f"{FIRST}.json", slow, times=1)
    assert open_shards(server.url, cache=tmp_path).read("train", 0)
    assert server.asked == {"manifest.json": 1, f"{FIRST}.json": 1, f"{FIRST}.tar": 2}


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(RemoteError, match=r"Connect call failed \('127.0.0.1', 9\), after 3 tries"):
        open_shards("http://127.0.0.1:9", cache=tmp_path)


def test_a_full_disk_is_not_the_fault_of_the_server(server, tmp_path, monkeypatch):
    shards = open_shards(server.url, cache=tmp_path)
    monkeypatch.setattr(
        "video_data.shards._remote.temporary_name", lambda path: path.parent / "none" / path.name
    )
    with pytest.raises(ShardError, match="FileNotFoundError: No such file"):
        shards.read("train", 0)
    assert server.asked[f"{FIRST}.json"] == 1


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)


def read_all(shards):
    return [shards.read("train", index) for index in range(shards.num_samples("train"))]


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize("suffix", ["tar", "json"])
@pytest.mark.parametrize("is_open", [False, True])
def test_damage_in_the_cache_heals(how, suffix, is_open, server, local, tmp_path, caplog):
    shards = open_shards(server.url, cache=tmp_path)
    wanted = read_all(open_shards(local))
    assert read_all(shards) == wanted
    entry = shards.manifest.shards[0]
    damage(tmp_path / (entry.sha256 if suffix == "tar" else entry.index_sha256), how)
    for number in range(2):
        # Files that are open see the damage too; an index is read once by a process.
        assert read_all(shards if is_open else open_shards(server.url, cache=tmp_path)) == wanted
        healed = not (is_open and suffix == "json")
        assert server.asked[f"{FIRST}.{suffix}"] == 1 + healed, number
    lines = [
        r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()
    ]  # a busy machine is slow, too
    assert [line.endswith(f"is damaged and is fetched again from {server.url}/{FIRST}.{suffix}")
            for line in lines] == [True] * healed  # fmt: skip


def test_a_damaged_tar_is_not_handed_out_whole(server, local, tmp_path):
    shards = open_shards(server.url, cache=tmp_path)
    shards.open_tar(FIRST).close()
    damage(tmp_path / shards.manifest.shards[0].sha256, "flipped")
    with shards.open_tar(FIRST) as tar:
        assert tar.read() == (local / f"{FIRST}.tar").read_bytes()


@pytest.mark.slow
def test_workers_heal_the_cache_that_they_share(server, local, tmp_path):
    shards = open_shards(server.url, cache=tmp_path)
    read_all(shards)
    for entry in shards.manifest.shards:
        damage(tmp_path / entry.sha256, "flipped")
        damage(tmp_path / entry.index_sha256, "cut")
    server.answers(f"{FIRST}.tar", status(503), times=1)
    found = []
    for source in (shards, open_shards(local)):
        loader = train_loader(source, "train", CLIP, batch_size=6, seed=1, num_workers=2)
        batches = list(loader)
        assert not any(batch.replaced for batch in batches)
        found.append([(batch.keys, batch.video.sum().item()) for batch in batches])
    assert found[0] == found[1]
    assert verify_shards(server.url, cache=tmp_path, progress=False).problems == ()
    assert max(count for name, count in server.asked.items() if name.startswith("train")) <= 4


def test_damage_behind_the_url_is_told_so(server, tmp_path, caplog):
    server.answers(f"{FIRST}.tar", flipped)
    with pytest.raises(
        ShardError, match=r"bytes without the hash in the manifest; it is damaged, or of another"
    ):
        open_shards(server.url, cache=tmp_path).read("train", 0)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


FETCHING = """
import sys
from video_data import open_shards
open_shards(sys.argv[1], cache=sys.argv[2]).read("train", 0)
"""


@pytest.mark.slow
def test_what_killed_fetches_leave_goes(server, local, tmp_path):
    server.answers(f"{FIRST}.tar", stuck, times=2)
    processes = [
        subprocess.Popen([sys.executable, "-c", FETCHING, server.url, tmp_path / str(number)])
        for number in range(2)
    ]
    for number, process in enumerate(processes):
        folder = tmp_path / str(number)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in folder.glob(".*.tmp")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    open_shards(server.url, cache=tmp_path / "0")
    assert list((tmp_path / "0").glob(".*.tmp")), "the file of a fetch that goes on was removed"
    for process in processes:
        process.kill()
        process.wait()
    for number in range(2):
        assert list((tmp_path / str(number)).glob(".*.tmp"))
    open_shards(server.url, cache=tmp_path / "0")
    assert not list((tmp_path / "0").glob(".*.tmp"))
    assert open_shards(server.url, cache=tmp_path / "1").read("train", 0)
    assert not list((tmp_path / "1").glob(".*.tmp"))


def test_on_storage_without_locks_shards_are_fetched_and_fresh_temporaries_stay(
    server, local, tmp_path, monkeypatch
):
    def without_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    fresh, old = (tmp_path / f".{digest * 64}.{digest * 8}.tmp" for digest in "ab")
    for path in (fresh, old):
        path.write_bytes(b"cut")
    os.utime(old, (time.time() - 7 * 3600,) * 2)
    shards = open_shards(server.url, cache=tmp_path)
    assert shards.read("train", 0) == open_shards(local).read("train", 0)
    assert fresh.exists() and not old.exists()
    of_shard = (
        tmp_path / f".{shards.manifest.shards[1].sha256}.{'a' * 8}.tmp"
    )  # another process fetches it now
    of_shard.write_bytes(b"cut")
    assert shards.read("train", 4) == open_shards(local).read("train", 4)
    assert of_shard.exists()


@pytest.mark.parametrize("number", [408, 425, 429])
def test_a_manifest_that_another_try_may_get_is_no_bad_input(number, server, tmp_path):
    server.answers("manifest.json", status(number))
    with pytest.raises(RemoteError, match=f"{number} .*, after 3 tries$"):
        open_shards(server.url, cache=tmp_path)


def test_what_is_missing_has_a_status_only_where_a_server_answered(server, tmp_path):
    for url, what in [
        (f"{server.url}/nothing.json", r"there is nothing \(404 Not Found\)"),
        (f"file://{tmp_path}/nothing.json", "there is nothing"),
        ("memory://nothing.json", "there is nothing"),
    ]:
        with pytest.raises(FileNotFoundError, match=f"{what}: '{url}'$"):
            remote.fetch_bytes(url, 100)
