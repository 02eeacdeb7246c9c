"""The compiled library: where it is, the record of one call, and the threads that work on it."""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

FORWARD, BACKWARD = 0, 1
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_FILE = Path(__file__).with_name("_correlation.so")  # where build.py puts it
_LARGE_PAGE = 2**21
_int = ctypes.c_int64
_pointer = ctypes.c_void_p


class Job(ctypes.Structure):
    """One call of the operator: `corr_job` of native/correlation.h, which explains the fields."""

    _fields_ = (
        ("base", _pointer),
        ("search", _pointer),
        ("weight", _pointer),
        ("grad", _pointer),
        ("out", _pointer),
        ("grad_base", _pointer),
        ("grad_search", _pointer),
        ("grad_weight", _pointer),
        ("base_strides", _int * 5),
        ("search_strides", _int * 5),
        ("weight_strides", _int * 4),
        ("match_strides", _int * 7),
        ("grad_base_strides", _int * 5),
        ("grad_search_strides", _int * 5),
        ("num_clips", _int),
        ("channels", _int),
        ("num_frames", _int),
        ("height", _int),
        ("width", _int),
        ("groups", _int),
        ("kernel", _int * 2),
        ("dilation", _int * 2),
        ("lag", _int),
        ("shared", _int),
        ("bands", _int),
        ("dtype", _int),
        ("direction", _int),
        ("instruction_set", _int),
        ("next", _int),
        ("failed", _int),
    )


def path() -> Path:
    """Return where the library is: in the package, or where the variable CORR_OPS_LIBRARY says."""
    return Path(os.environ.get("CORR_OPS_LIBRARY", _FILE))


@functools.cache
def unavailable() -> str | None:
    """Return why the library cannot be used here, or None when it can."""
    if not path().exists():
        return "its compiled library is not part of this installation"
    try:
        library = _load()
    except OSError as error:
        return f"its compiled library cannot be loaded ({error})"
    if path() == _FILE and not _is_current(library):
        return "its compiled library is not of these sources; python -m corr_ops.impl.cpu.build compiles them"
    return None


def _is_current(library: ctypes.CDLL) -> bool:
    """Return whether a library belongs to the sources beside it; those of a checkout may be newer."""
    from corr_ops.impl.cpu.build import fingerprint  # imported where used: `build` also runs as a program

    try:
        library.corr_sources.restype = ctypes.c_char_p
        return bool(library.corr_sources().decode() == fingerprint())
    except AttributeError:
        return False


@functools.cache
def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(path()))
    library.corr_instruction_set.restype = ctypes.c_char_p
    library.corr_advise_large_pages.argtypes = (_pointer, _int)
    return library


@functools.cache
def instruction_sets() -> dict[str, int]:
    """Return the instruction sets that this processor has, best first, with their index in the library."""
    library = _load()
    names = [library.corr_instruction_set(index) for index in range(library.corr_num_instruction_sets())]
    return {name.decode(): index for index, name in enumerate(names) if name}


@functools.cache
def instruction_set() -> str:
    """Return the instruction set in use: the best one, or that of the variable CORR_OPS_ISA.

    Raises:
        ValueError: If this processor does not have the one asked for.
    """
    available = list(instruction_sets())
    name = os.environ.get("CORR_OPS_ISA", available[0])
    if name not in available:
        raise ValueError(f"CORR_OPS_ISA must be one of {available} on this processor, got {name!r}")
    return name


def advise_large_pages(tensor: Tensor) -> Tensor:
    """Ask the system for large pages for a tensor that is about to be written for the first time; return it.

    That is Linux's `madvise`, which NumPy calls for its arrays as well; elsewhere nothing happens. Tensors without a
    whole page of 2 MiB stay as they are.
    """
    num_bytes = tensor.untyped_storage().nbytes()
    if num_bytes >= _LARGE_PAGE:
        _load().corr_advise_large_pages(tensor.untyped_storage().data_ptr(), num_bytes)
    return tensor


def run(job: Job, num_tasks: int) -> None:
    """Work on a job to its end, on at most `torch.get_num_threads()` threads.

    The result does not depend on their number. The interpreter lock is released meanwhile.

    Args:
        job: The call.
        num_tasks: Into how many tasks it falls.

    Raises:
        MemoryError: If there was no memory for the threads' buffers.
    """
    job.instruction_set = instruction_sets()[instruction_set()]
    num_threads = min(torch.get_num_threads(), num_tasks)
    if num_threads <= 1:
        _load().corr_work(ctypes.byref(job))
    else:
        _parallel()(job, num_threads)
    if job.failed:
        raise MemoryError("no memory for the buffers of the correlation kernels")


@functools.cache
def _parallel() -> Callable[[Job, int], None]:
    """Return a function that works on a job with several threads.

    They are the threads of the OpenMP runtime that PyTorch itself uses, where it can be found: others would
    compete with them for the cores, since they spin for a while after each of PyTorch's operators.
    """
    library, parallel = _load(), _openmp_parallel()
    if parallel is None or _forked:
        return _run_in_python_threads

    def run_in_openmp(job: Job, num_threads: int) -> None:
        library.corr_work_parallel(ctypes.byref(job), parallel, num_threads)

    return run_in_openmp


def _openmp_parallel() -> ctypes.c_void_p | None:
    """Return the address of GOMP_parallel in the OpenMP runtime that PyTorch is linked to, if it has one.

    GNU's runtime defines this entry point; those of LLVM and Intel offer it too.
    """
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None


def _run_in_python_threads(job: Job, num_threads: int) -> None:
    library, reference = _load(), ctypes.byref(job)
    others = [_pool().submit(library.corr_work, reference) for _ in range(num_threads - 1)]
    library.corr_work(reference)
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="corr_ops")


_forked = False


def _after_fork_in_child() -> None:
    """Forget all threads: a child has none but the one that forked, and OpenMP would wait for the others."""
    global _forked
    _forked = True
    _parallel.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
