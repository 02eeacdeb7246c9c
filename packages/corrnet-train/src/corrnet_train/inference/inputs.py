"""What people classify: files, folders and URLs of videos, and folders of frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrnet_train.utils.errors import InputError
from video_data import RemoteError
from video_data.datasets.finder import Tally, Walker, ending
from video_data.media.limits import VIDEO_SUFFIXES
from video_data.media.pictures import PICTURE_SUFFIXES, holds_pictures
from video_data.utils.remote import fetch_bytes

MAX_BYTES = 1 << 30  # of a video behind a URL


@dataclass(frozen=True)
class VideoInput:
    """A video that was named, or found in a folder.

    Attributes:
        name: Its path or URL.
    """

    name: str

    def read(self) -> Path | bytes:
        """Return the path of a file or a folder of frames, the content of what is behind a URL.

        Raises:
            ValueError: It is larger than `MAX_BYTES` or cannot be fetched.
            ImportError: fsspec, or what it needs for this kind of URL, is missing.
        """
        return _fetch(self.name) if "://" in self.name else Path(self.name)


def find_videos(names: Sequence[str]) -> list[VideoInput]:
    """Videos by name: files and URLs as they are, of folders every video at any depth, sorted by path.

    A folder with at least two pictures and no video file is one video, whose frames are the pictures by number;
    `folder/img_*.jpg` names some pictures of a folder.

    Raises:
        ValueError: A file is missing or a folder has no video.
    """
    return [VideoInput(found) for name in names for found in _find(name)]


def _find(name: str) -> Iterator[str]:
    path = Path(name)
    if "://" in name:
        yield name
    elif path.is_dir():
        found = _in_folder(path)
        if not found:
            raise InputError(
                f"no videos in {path}; endings that count: {', '.join(sorted(VIDEO_SUFFIXES))}, and folders of "
                f"frames: {', '.join(sorted(PICTURE_SUFFIXES))}"
            )
        yield from map(str, found)
    elif path.exists() or holds_pictures(path):
        yield name
    else:
        raise InputError(f"no file or folder {name}")


def _in_folder(top: Path) -> list[Path]:
    """Video files and folders of frames; what is hidden is passed over, linked folders are followed."""
    found: list[Path] = []
    for folder, files in Walker(Tally(top)).walk(top):
        suffixes = [ending(file) for file in files]
        videos = [
            folder / file for file, suffix in zip(files, suffixes, strict=True) if suffix in VIDEO_SUFFIXES
        ]
        num_pictures = sum(suffix in PICTURE_SUFFIXES for suffix in suffixes)
        found += videos or ([folder] if num_pictures > 1 else [])
    return sorted(found)


def _fetch(url: str) -> bytes:
    try:
        content = fetch_bytes(url, MAX_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{url} cannot be fetched: {error.strerror}") from error
    except RemoteError as error:
        raise InputError(f"cannot fetch {error}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{url} has more than {MAX_BYTES} bytes")
    return content
