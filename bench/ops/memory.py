"""How far a call raises the resident memory of a fresh process.

    python -m bench.ops.memory res2-L8-N1     # prints rows of the record as JSON

The peak counts everything: outputs, gradients, tensors in between and the buffers of compiled code, which
PyTorch's profiler does not see. Linux keeps it. It may be off by about a quarter of a MB for each thread, since
threads report pages in batches.
"""

import ctypes
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.interleave import Contender
from bench.ops.cases import BACKENDS, DIRECTIONS, LARGE, SMALL, Case, convolution, correlation

ROOT = Path(__file__).parents[2]
_REPEATS = 5
_CLEAR_REFS = Path("/proc/self/clear_refs")
_PR_SET_THP_DISABLE, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 41, -1, -3


def unavailable() -> str | None:
    """Return why memory cannot be measured here, or None when it can."""
    return None if _CLEAR_REFS.exists() else "the peak of resident memory is read from Linux's /proc"


def measure(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Return the extra memory of the operator and of a convolution on each case, measured in a new process."""
    command = [sys.executable, "-m", "bench.ops.memory", *map(str, cases)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def _rows(case: Case, direction: str) -> Iterable[dict[str, Any]]:
    contenders = [correlation(case, direction, backend) for backend in BACKENDS]
    for contender in [*contenders, convolution(case, direction, (3, 3, 3))]:
        yield {
            **case.columns,
            "direction": direction,
            "provider": contender.provider,
            "dtype": contender.dtype,
            "layout": contender.layout,
            "threads": contender.threads,
            "rounds": _REPEATS,
            "result_bytes": _size(contender.call()),
            "extra_bytes": extra_bytes(contender),
        }


def extra_bytes(contender: Contender) -> int:
    """Return by how many bytes the resident memory rises at most during a call; see `prepare`."""
    return int(statistics.median(_extra(contender) for _ in range(_REPEATS)))


def prepare() -> None:
    """Ready a process for `extra_bytes`: freed memory goes back to the system at once, and pages are small ones."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _extra(contender: Contender) -> int:
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5")  # the peak is counted from here
    before = _resident("VmRSS")
    contender.run()
    extra = _resident("VmHWM") - before
    contender.release()
    return extra


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def _size(results: Any) -> int:
    return results.nbytes if isinstance(results, Tensor) else sum(map(_size, results))


def main() -> None:
    prepare()
    asked = [case for case in SMALL + LARGE if str(case) in sys.argv[1:]]
    print(json.dumps([row for case in asked for direction in DIRECTIONS for row in _rows(case, direction)]))


if __name__ == "__main__":
    main()
