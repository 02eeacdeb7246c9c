import logging
import pickle
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from video_data import RemoteError, VideoError, WorkError, open_shards, verify_shards
from video_data.loading.live import open_frames
from video_data.utils import remote
from video_data.utils.error_budget import ErrorBudget
from video_data.utils.messages import hide_secrets, some_of
from video_data.utils.remote import fetch_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:secret@10.0.0.1:554/cam", "rtsp://***@10.0.0.1:554/cam"),
        ("rtsp://user:p@ss?w#rd@host/cam", "rtsp://***@host/cam"),
        ("https://secret@host/v.mp4", "https://***@host/v.mp4"),
        ("no answer of https:/user:secret@host/x in time", "no answer of https:/***@host/x in time"),
        (
            "s3://b/k?X-Amz-Signature=secret&X-Amz-Credential=secret/2026&v=1",
            "s3://b/k?X-Amz-Signature=***&X-Amz-Credential=***&v=1",
        ),
        ("url='https://h/a?v=1&token=secret', next", "url='https://h/a?v=1&token=***', next"),
        ("srt://h:1?passphrase=secret#t", "srt://h:1?passphrase=***#t"),
        ("https://h/a?sig=secret https://u:secret@h/b", "https://h/a?sig=*** https://***@h/b"),
        ("rtsp://user:p/w@host/cam", "rtsp://***@host/cam"),
        ("rtsp://user:12p/w:x/@host:554/cam", "rtsp://***@host:554/cam"),
        ("rtsp://user:p'w\"x\\@host/cam", "rtsp://***@host/cam"),
        ("'rtsp:/user:p/w@host/cam' is no file", "'rtsp:/***@host/cam' is no file"),
        ("https://h/v#access_token=secret&v=1", "https://h/v#access_token=***&v=1"),
        ("https://h/v?v=1#sig=secret", "https://h/v?v=1#sig=***"),
        ("https://h/v;jsessionid=secret?sv=1&sig=se%2Fcret%3D", "https://h/v;jsessionid=***&sig=***"),
        ("https://h/v?passphrase=se;cr'et next", "https://h/v?passphrase=*** next"),
        (
            "['https://h/v?jwt=secret', \"https://h/v?sid=secret\"]",
            "['https://h/v?jwt=***', \"https://h/v?sid=***\"]",
        ),
        ("http://cam/v.cgi?loginuse=me&loginpas=secret", "http://cam/v.cgi?loginuse=me&loginpas=***"),
        ("https://h/v?hdnts=exp=1~acl=/*~hmac=secret", "https://h/v?hdnts=***"),
        ("rtsp://cam:554/user=me&password=secret&channel=1", "rtsp://cam:554/user=me&password=***&channel=1"),
        ("rtsp://cam/user=me_password=secret_channel=1.sdp", "rtsp://cam/user=me_password=***"),
    ],
)
def test_what_opens_doors_is_hidden(text, shown):
    assert hide_secrets(text) == shown
    assert hide_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a@b/v.mp4?start=3&end=5",
        "s3://bucket/shards",
        "http://localhost:9000/bucket/a@2x.mp4#t=10,20",
        "http://[::1]:9000/bucket/a@2x.mp4",
        "https://h/v?side=left&spin=1&class=pin#part=2",
        "/videos/me@home/key=3.mp4",
        "C:/a@b.mp4",
        "a: b@c",
    ],
)
def test_all_else_stays(text):
    assert hide_secrets(text) == text


def test_long_lists_are_cut_with_a_count():
    names = [f"class {number}" for number in range(5000)]
    assert some_of(names, most=3) == "class 0, class 1, class 2 and 4,997 more"
    assert some_of(iter(names[:2])) == "class 0, class 1"
    assert some_of([]) == ""


def test_the_reasons_of_an_error_budget_are_cut_with_a_count():
    budget = ErrorBudget(20)
    for number in range(20):
        budget.add(f"key {number}", f"reason {number}", "details")
    with pytest.raises(
        WorkError, match=r"21 samples .*: 2 x reason 0; 1 x reason 1; .*; and 10 more reasons\. Last"
    ):
        budget.add("key", "reason 0", "details")


@pytest.fixture
def refusing_server():
    """A server that answers 403 to all, or 500 to what ends in `broken`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(500 if "broken" in self.path else 404 if "none" in self.path else 403)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def said(error):
    """Everything that an error tells, also after a way between processes."""
    return f"{error} {error!r} {pickle.loads(pickle.dumps(error))}"


def test_no_message_of_a_fetch_has_the_password(refusing_server, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "_SAID_AFTER", 0.0)
    caplog.set_level(logging.DEBUG, logger="video_data")
    for path in ("a", "none", "broken"):
        with pytest.raises((RemoteError, FileNotFoundError)) as error:
            fetch_bytes(f"{refusing_server}/{path}?X-Amz-Signature=secret", 10)
        assert "secret" not in said(error.value) and "***@127.0.0.1" in str(error.value)
    for path in ("a", "none"):
        for call in (open_shards, verify_shards):
            with pytest.raises(ValueError, match=r"\*\*\*@") as error:
                call(f"{refusing_server}/{path}", cache=tmp_path)
            assert "secret" not in said(error.value)
    assert "trying again" in caplog.text and "secret" not in caplog.text


def test_no_message_of_a_stream_has_the_password(refusing_server):
    with pytest.raises(VideoError, match=r"\*\*\*@127.0.0.1") as error, open_frames(f"{refusing_server}/cam"):
        pass
    assert "secret" not in said(error.value)
