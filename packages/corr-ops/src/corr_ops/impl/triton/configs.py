"""The table of launch configurations: pinned, so that results stay equal bit for bit.

`configs.json` holds it. An entry belongs to a kernel, a target and, where that makes a difference, a width of the
frames. They were chosen by what the kernels compile to (`tools/triton_code.py`), not yet by running them.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

_FILE = Path(__file__).with_name("configs.json")
_ACCUMULATORS = 49  # of one lane; more do not fit into the registers


class Config(NamedTuple):
    """How a kernel is launched.

    Attributes:
        lanes: Strips of a program, a power of two.
        num_warps: Warps of a program.
        strip: Output positions of a strip.
        columns: Columns of the matrix product that weights and adds channels; 0 where there is none.
    """

    lanes: int
    num_warps: int
    strip: int
    columns: int = 0


def find(kernel: str, target: str, *, size: int, taps: int, dilation: int) -> Config:
    """Return the configuration for a kernel.

    Args:
        kernel: Name of the kernel and its variant.
        target: "cuda-<capability>" as in "cuda-90", or "hip-<architecture>".
        size: Positions of the frame along which strips run.
        taps: Displacements of the neighborhood in that direction.
        dilation: Distance between them.

    Returns:
        The entry for this target and size, else for its target, else for its vendor. Its strip is the one that
        leaves the fewest positions of a frame unused, shortened where the neighborhood is large.
    """
    entries = {(e["target"], e.get("size")): e for e in _table() if e["kernel"] == kernel}
    vendor = target.partition("-")[0]
    found = entries.get((target, size)) or entries.get((target, None)) or entries[vendor, None]
    strips = [max(1, min(strip, _ACCUMULATORS // taps)) for strip in found["strips"]]
    strip = min(strips, key=lambda strip: (-(-size // (dilation * strip)) * strip, -strip))
    columns = max(found["columns"], 1 << (taps - 1).bit_length()) if "columns" in found else 0
    return Config(found["lanes"], found["num_warps"], strip, columns)


@functools.cache
def _table() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return table
