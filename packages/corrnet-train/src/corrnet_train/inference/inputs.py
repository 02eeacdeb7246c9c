"""What people classify: files, folders and URLs of videos, and folders of frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrnet_train.utils.errors import InputError
from video_data import RemoteError
from video_data.datasets.finder import Tally, Walker, ending
from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES, holds_pictures
from video_data.utils.files import what_instead_of_file
from video_data.utils.messages import hide_secrets
from video_data.utils.remote import fetch_bytes

MAX_BYTES = 1 << 30  # of a video behind a URL
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "udp://", "rtp://", "srt://")
_PLAYLISTS = (".m3u8", ".mpd")
_CAMERAS = "; the first camera is camera:0"


@dataclass(frozen=True)
class VideoInput:
    """A video that was named, or found in a folder.

    Attributes:
        name: Its path or URL.
    """

    name: str

    @property
    def shown(self) -> str:
        """Its name as messages and files have it, without passwords."""
        return hide_secrets(self.name) if "://" in self.name else self.name

    def read(self) -> Path | bytes:
        """Return the path of a file or a folder of frames, the content of what is behind a URL.

        Raises:
            ValueError: It is larger than `MAX_BYTES` or cannot be fetched.
            ImportError: fsspec, or what it needs for this kind of URL, is missing.
        """
        check_has_end(self.name)
        return _fetch(self.name) if "://" in self.name else Path(self.name)


def find_videos(names: Sequence[str], tally: Tally | None = None) -> list[VideoInput]:
    """Videos by name: files and URLs as they are, of folders every video at any depth, sorted by path.

    A folder with at least two pictures and no video file is one video, whose frames are the pictures by number;
    `folder/img_*.jpg` names some pictures of a folder.

    Args:
        names: What is named.
        tally: Counts what is passed over in folders, by reason: other files, links that lead nowhere, folders that
            cannot be read.

    Raises:
        ValueError: A file is missing or no file, a folder has no video, or it is a camera or a stream.
    """
    tally = Tally() if tally is None else tally
    return [VideoInput(found) for name in names for found in _find(name, tally)]


def check_has_end(name: str) -> None:
    """Check that a video is no camera and no stream, of which only a sliding window can be classified.

    Raises:
        InputError: It is one.
    """
    is_camera = name.startswith("camera:") and not Path(name).exists()
    is_playlist = "://" in name and name.partition("?")[0].lower().endswith(_PLAYLISTS)
    if is_camera or is_playlist or name.lower().startswith(_STREAMS):
        raise InputError(
            f"{hide_secrets(name)} is a {'camera' if is_camera else 'stream'}, which has no end to cut clips up to: "
            "corrnet predict --hop N classifies it in windows; record a file of it for all else"
        )


def check_window_source(name: str) -> None:
    """Check that what a window is to slide over is a camera, a URL, or a file, folder or pattern that is there.

    Raises:
        InputError: It is none of them.
    """
    if what := what_instead_of_file(name):
        if not Path(name).is_dir():
            raise InputError(f"{name} is {what}, and a video is a file or a folder{_CAMERAS}")
    elif not (
        name.startswith("camera:") or "://" in name or Path(name).exists() or holds_pictures(Path(name))
    ):
        raise InputError(f"no file or folder {name}{_CAMERAS}")


def _find(name: str, tally: Tally) -> Iterator[str]:
    check_has_end(name)
    path = Path(name)
    if "://" in name:
        yield name
    elif path.is_dir():
        found = _in_folder(path, tally)
        if not found:
            own = Tally()  # the other one may have counted in another folder
            _in_folder(path, own)
            raise InputError(
                f"no videos in {path}; endings that count: {', '.join(sorted(VIDEO_SUFFIXES))}, and folders of "
                f"frames: {', '.join(sorted(PICTURE_SUFFIXES))}{own}"
            )
        yield from map(str, found)
    elif what := what_instead_of_file(path):
        raise InputError(f"{path} is {what}, and a video is a file or a folder")
    elif path.exists() or holds_pictures(path):
        yield name
    else:
        raise InputError(f"no file or folder {name}")


def _in_folder(top: Path, tally: Tally) -> list[Path]:
    """Video files and folders of frames; what is hidden is passed over, linked folders are followed."""
    found: list[Path] = []
    for folder, files in Walker(tally).walk(top):
        videos = [file for file in files if ending(file) in VIDEO_SUFFIXES]
        pictures = [file for file in files if ending(file) in PICTURE_SUFFIXES]
        takes_pictures = len(pictures) > 1 and not videos
        found += [folder] if takes_pictures else [folder / file for file in videos]
        for file in sorted(set(files) - set(pictures if takes_pictures else videos)):
            tally.add_ending(folder / file)
    return sorted(found)


def _fetch(url: str) -> bytes:
    try:
        content = fetch_bytes(url, MAX_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{hide_secrets(url)} cannot be fetched: {error.strerror}") from error
    except RemoteError as error:
        raise InputError(f"cannot fetch {error}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{hide_secrets(url)} has more than {MAX_BYTES} bytes")
    return content
