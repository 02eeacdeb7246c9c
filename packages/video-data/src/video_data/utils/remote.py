"""Fetching what is behind a URL through fsspec: again where a fault may pass, and with the reason where it does not."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import urlsplit

from video_data.utils.errors import MissingPackageError, RemoteError, describe
from video_data.utils.messages import hide_secrets

R = TypeVar("R")

_CHUNK = 1 << 20
_ATTEMPTS = 3
_FIRST_PAUSE = 0.5  # seconds before the second try; each further pause is four times as long
_LONGEST_PAUSE = 30.0  # seconds, whatever a server asks for
_SAID_AFTER = 4.0  # seconds without an answer after which the log says what is waited for
_SILENCE = 20.0  # seconds without a byte after which a try is over
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""Answers of the kind 4xx that another try may not get."""

_log = logging.getLogger(__name__)


class Source(Protocol):
    """What a fetched file is read from, once from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


class _ReadError(Exception):
    """Opening or reading failed, for the reason in `__cause__`; what fails while writing is no such error."""


def fetch(url: str, receive: Callable[[Source], R], *, storage_options: Mapping[str, Any] | None = None) -> R:
    """Return what `receive` makes of what is behind a URL, which is tried three times where the fault may pass.

    A warning of the logger says what is waited for and what is tried again; passwords are hidden there and in errors. A
    server that answers 429 or 503 with Retry-After is given that time, at most 30 s. Reading over HTTP ends when no
    byte has come for 20 s.

    Args:
        url: The URL.
        receive: Reads the source from the start; called for each try. A `RemoteError` of it counts as a failed try.
        storage_options: Arguments for fsspec's file system, for example keys or an endpoint.

    Raises:
        FileNotFoundError: There is nothing.
        RemoteError: It could not be fetched; `status` is that of the server's answer.
        ImportError: A package for this kind of URL is missing.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _opened(url, storage_options or {}) as source:
                return receive(source)
        except _ReadError as failure:
            assert isinstance(failure.__cause__, Exception)
            cause: Exception = failure.__cause__
            status, asked_pause = _answer(cause)
            if (status is None and isinstance(cause, FileNotFoundError)) or status == HTTPStatus.NOT_FOUND:
                is_answer = status is not None or url.startswith(("http:", "https:"))
                what = "there is nothing (404 Not Found)" if is_answer else "there is nothing"
                raise FileNotFoundError(2, what, hide_secrets(url)) from cause
            may_pass = status is None or status >= 500 or status in MAY_PASS
            if not may_pass or (
                status is None and isinstance(cause, (PermissionError, ValueError, TypeError))
            ):
                raise _remote_error(url, _reason(url, cause, status), status) from cause
            reason = _reason(url, cause, status)
        except RemoteError as error:
            cause, reason, status, asked_pause = (
                error,
                str(error).removeprefix(f"{hide_secrets(url)}: "),
                None,
                0.0,
            )
        if attempt == _ATTEMPTS:
            raise _remote_error(url, f"{reason}, after {_ATTEMPTS} tries", status) from cause
        pause = max(_FIRST_PAUSE * 4 ** (attempt - 1), min(asked_pause, _LONGEST_PAUSE))
        _log.warning(
            "%s: %s; trying again in %g s (try %d of %d)",
            hide_secrets(url),
            reason,
            pause,
            attempt + 1,
            _ATTEMPTS,
        )
        time.sleep(pause)
    raise AssertionError("unreachable")


def fetch_bytes(url: str, limit: int, *, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of what is behind a URL; of more than `limit` bytes some more than these. See `fetch`."""

    def receive(source: Source) -> bytes:
        content = bytearray()
        while len(content) <= limit and (chunk := source.read(_CHUNK)):
            content += chunk
        return bytes(content)

    return fetch(url, receive, storage_options=storage_options)


class _Reading:
    """A file whose errors are told from those of what is done with its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # file systems raise errors of their own kinds
            raise _ReadError from error


@contextmanager
def _opened(url: str, storage_options: Mapping[str, Any]) -> Iterator[Source]:
    try:
        with _says_what_it_waits_for(url):
            file = _open(url, dict(storage_options))
    except ImportError as error:
        extra = "s3" if url.startswith("s3:") else "remote"
        raise MissingPackageError(
            f"{error}; for s3:// and http:// there is: pip install 'video-data[{extra}]'"
        ) from error
    except Exception as error:
        raise _ReadError from error
    with file:
        yield _Reading(file)


def _open(url: str, options: dict[str, Any]) -> BinaryIO:
    import fsspec

    how: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # fsspec's own limit is 300 s for a whole file.
        timeout = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        options["client_kwargs"] = {"timeout": timeout, **options.get("client_kwargs", {})}
        # One request that is read as it comes. Without a size fsspec asks for it first, and says of all errors that the
        # file is not there.
        how = {"block_size": 0, "size": 1}
    system, path = fsspec.core.url_to_fs(url, **options)
    file: BinaryIO = system.open(path, "rb", **how)
    return file


@contextmanager
def _says_what_it_waits_for(url: str) -> Iterator[None]:
    arguments = ("waiting for an answer of %s to a request for %s", _host(url), hide_secrets(url))
    timer = threading.Timer(_SAID_AFTER, _log.warning, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _answer(error: BaseException | None) -> tuple[int | None, float]:
    """Return the status of HTTP that an error stands for, and the seconds that the server asks to wait."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # of botocore
            details = response.get("ResponseMetadata", {})
            if isinstance(details.get("HTTPStatusCode"), int):
                return details["HTTPStatusCode"], _seconds(details.get("HTTPHeaders", {}).get("retry-after"))
        status = getattr(error, "status", None)
        if isinstance(status, int):  # of aiohttp
            return status, _seconds((getattr(error, "headers", None) or {}).get("Retry-After"))
        error = error.__cause__ or error.__context__
    return None, 0.0


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a header Retry-After means, a number or a date."""
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(retry_after)).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reason(url: str, error: Exception, status: int | None) -> str:
    if status is None:
        return f"no answer of {_host(url)} in time" if isinstance(error, TimeoutError) else describe(error)
    try:
        name = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = f"status {status}"
    return f"{name}; it wants other keys or rights" if status in _REFUSED else name


def _remote_error(url: str, reason: str, status: int | None) -> RemoteError:
    error = RemoteError(f"{hide_secrets(url)}: {reason}")
    error.status = status
    return error
