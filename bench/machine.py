"""What the figures were measured on, as columns of the records."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from bench.history import fingerprint, machine
from bench.trees import clean_commit
from corr_ops.impl.cpu import library


def describe() -> dict[str, Any]:
    """Return the versions, the processor, the cores this process may use, and the clock the system reports."""
    return {
        "torch": torch.__version__,
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ghz": round(float(_cpuinfo("cpu MHz") or 0) / 1e3, 2) or "",
        "instruction_set": library.instruction_set() if library.unavailable() is None else "",
    }


def describe_run() -> dict[str, Any]:
    """Return `describe`, the commit that is measured, the machine's name in the history, threads, and the load before.

    Raises:
        ValueError: The packages have changes that are in no commit.
    """
    threads = torch.get_num_threads()
    return {
        "commit": clean_commit(),
        "machine": fingerprint(machine(threads)),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        **describe(),
    }


def _cpuinfo(key: str) -> str | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
