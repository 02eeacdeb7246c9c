"""A setting of the C library's allocator: freed memory stays with the process."""

import ctypes

# Numbers of malloc.h in glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Makes this process keep the memory it frees, for its next allocations.

    glibc hands large freed blocks back to the system at once. Training on a CPU frees and asks for the same
    activations in every step, and each time the system has to clear their pages again. Without this a step of the
    recipe `motionbench` takes 11 % more processor time (6 to 27 %, 8 pairs of processes taking turns, one thread of a
    Xeon) and the process 6 % less memory. Where there is no glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)
