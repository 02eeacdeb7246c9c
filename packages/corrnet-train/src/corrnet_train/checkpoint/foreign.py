"""What a file is that was given for a checkpoint and is none, in words for users, and the weights in it."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from corrnet_models import unwrap_names
from corrnet_train.checkpoint.digest import load_checked
from corrnet_train.utils.errors import InputError

WANTED = (
    "give a checkpoint that `corrnet train` wrote (checkpoints/last.pt), the folder of a run, or that of an exported "
    "model"
)
LIKE = "; or give --like CHECKPOINT, one whose recipe and classes the weights have"

# Where a name of a format begins in a file, and what it is.
_FORMATS = (
    (4, b"ftyp", "a video or a picture (mp4)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"\x89HDF", "a file of HDF5, as Keras writes them"),
    (0, b"\x1f\x8b", "a gzip file"),
    (257, b"ustar", "a tar, as a shard is"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; git lfs pull gets the file"),
    (0, b"<", "a page of the web, perhaps an error of a download"),
)  # fmt: skip


def what_file(path: Path, error: Exception) -> str | None:
    """Return what a file is that torch cannot read, by its first bytes and by what torch says; None if unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty"
    if not any(start):
        return "it begins with zeros, as files do that were on a disk when it failed"
    for place, name, what in _FORMATS:
        if start[place:].startswith(name):
            return f"it is {what}"
    if path.suffix == ".onnx" or _is_program(path):
        return (
            "it is an exported program, which runs without corrnet; corrnet takes what it was exported from"
        )
    if _is_safetensors(start):
        return "it is a file of safetensors, which holds weights without a recipe"
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)):
        return f"it holds a Python object ({found[1]}), which could run any code, and not weights alone"
    if _is_text(start):
        return "it is a text file"
    return None


def what_content(content: Any) -> str:
    """Return what torch has read from a file that is no checkpoint of corrnet."""
    if isinstance(content, Tensor):
        return f"it holds a tensor of shape {list(content.shape)}"
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    place, names = max(_weights(content), key=lambda found: len(found[1]), default=("", []))
    if not names:
        return f"it holds no weights, but {json.dumps([str(key) for key in content][:5])}"
    where = f" under {place!r}" if place else ""
    (own,) = unwrap_names({names[0]: None})
    prefix = names[0].removesuffix(own)
    of = (
        f" of a model in a wrapper, as DistributedDataParallel or torch.compile (names begin with {prefix!r})"
        if prefix and all(name.startswith(prefix) for name in names)
        else ""
    )
    return (
        f"it holds {len(names)} tensors{of}{where}, {names[0]} for one, without the recipe and the classes that belong "
        "to them, so another program wrote it"
    )


def has_weights(path: Path, content: Any = None) -> bool:
    """Whether a file holds weights without a recipe.

    Args:
        path: The file.
        content: What torch has read from it; None where torch cannot read it.
    """
    if isinstance(content, Mapping):
        return "format_version" not in content and any(names for _, names in _weights(content))
    if content is not None:
        return False
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def weights_for(own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights in a file of torch or safetensors under the names that they have in a model.

    Args:
        own: State dict of the model.
        path: A file with a state dict, by itself or under a name like `state_dict` beside other things.

    Raises:
        InputError: It holds several state dicts that could be meant; the message names them.
    """
    with path.open("rb") as file:
        is_torch = not _is_safetensors(file.read(9))
    try:
        content: Any = load_checked(path) if is_torch else load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read, it may be cut off: {error}") from error
    found = {place: names for place, names in _weights(content) if names}
    states = {
        place: unwrap_names({name: (content[place] if place else content)[name] for name in names})
        for place, names in found.items()
    }
    fitting = [place for place, state in states.items() if own.keys() & state.keys()]
    if len(fitting) > 1:
        raise InputError(
            f"{path} holds weights of the model under {' and '.join(map(repr, fitting))}: save the ones that are meant "
            "to a file of their own"
        )
    return states[fitting[0] if fitting else max(states, key=lambda place: len(states[place]))]


def _weights(content: Mapping[Any, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the tensors of a mapping by name, and those of each mapping in it, with the name of that."""
    for place, values in (("", content), *content.items()):
        if isinstance(place, str) and isinstance(values, Mapping):
            names = [
                name for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor)
            ]
            yield place, names


def _is_program(path: Path) -> bool:
    """Whether a file is what `torch.export.save` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/archive_format") for name in archive.namelist())
    except Exception:  # a damaged file may raise anything
        return False


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and start[5:8] == bytes(3)


def _is_text(start: bytes) -> bool:
    try:
        return all(character.isprintable() or character.isspace() for character in start.decode())
    except UnicodeDecodeError:
        return False
