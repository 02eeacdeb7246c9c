"""Rows, clocks and timers that the stages share.

Rows are written as they come, one JSON object a line, so that a stage that is cut off keeps what it measured. Times
are those of the GPU between two events, over inputs that rotate through several sets, so that no call finds its
inputs in the cache; on a CPU, where the stages only run dry, they are those of the clock.
"""

import importlib.metadata
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROUND_SECONDS = 2e-3


class Rows:
    """The rows of a stage: printed, and appended to a file at once.

    Args:
        path: File to append to.
        device: Where the stage measures; every row has its name and its clocks.
        seconds: Time that the stage may take; see `late`.
    """

    def __init__(self, path: Path, device: torch.device, *, seconds: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._device = device
        self._start = time.monotonic()
        self._seconds = seconds
        self._machine = describe(device)

    def add(self, table: str, **values: Any) -> None:
        """Write a row."""
        row = {"table": table, **{key: _rounded(value) for key, value in values.items()}}
        print(f"{self.elapsed:6.1f} s  {json.dumps(row)}", flush=True)
        self._file.write(json.dumps({**row, **self._machine, **clocks(self._device)}) + "\n")
        self._file.flush()

    def attempt(self, table: str, make: Callable[[], dict[str, Any]], **values: Any) -> dict[str, Any]:
        """Write a row with what `make` returns, or with why it could not; nothing when time is up."""
        if self.late():
            self.add(table, **values, skipped="no time left")
            return {}
        try:
            found = make()
        except Exception as error:  # a stage goes on: its other rows are worth as much
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        self.add(table, **values, **found)
        return found

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._start

    def late(self, *, share: float = 1.0) -> bool:
        """Return whether this share of the stage's time is over."""
        return self.elapsed > share * self._seconds


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def describe(device: torch.device) -> dict[str, Any]:
    """Return the card, the driver and the versions as columns of the rows."""
    columns: dict[str, Any] = {"torch": torch.__version__, "triton": _version("triton")}
    if device.type != "cuda":
        return {"gpu": str(device), **columns}
    properties = torch.cuda.get_device_properties(device)
    driver = _nvml(lambda nvml, _: nvml.nvmlSystemGetDriverVersion(), device)
    return {"gpu": properties.name, "driver": driver, "cuda": torch.version.cuda, **columns}


def clocks(device: torch.device) -> dict[str, Any]:
    """Return the clocks of a GPU in MHz, its temperature and its power, as they are now."""

    def ask(nvml: Any, handle: Any) -> dict[str, Any]:
        return {
            "sm_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "watts": round(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
        }

    return _nvml(ask, device) or {} if device.type == "cuda" else {}


def seconds_of(
    calls: Sequence[Callable[[], object]], device: torch.device, *, rounds: int = 15, graph: bool = True
) -> list[float]:
    """Return the seconds of a call in each round; a round goes through all calls, several times where they are short.

    Args:
        calls: The same work on different inputs.
        device: Where they run.
        rounds: How many.
        graph: Replay the calls as a CUDA graph, so that the time is the GPU's alone.
    """
    if device.type != "cuda":
        return [_clocked(calls)]
    for call in calls:
        call()
    torch.cuda.synchronize(device)
    eager = _between_events(lambda: [call() for call in calls]) / len(calls)
    repeats = max(1, round(ROUND_SECONDS / (eager * len(calls))))

    def work() -> None:
        for call in itertools.chain.from_iterable(itertools.repeat(calls, repeats)):
            call()

    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            work()
        work = captured.replay
        work()
    return [_between_events(work) / (repeats * len(calls)) for _ in range(rounds)]


def num_sets(device: torch.device) -> int:
    """Return how many sets of inputs the calls of a measurement rotate through."""
    return 4 if device.type == "cuda" else 1


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the extremes as columns."""
    return {
        "ms": 1e3 * statistics.median(seconds),
        "ms_min": 1e3 * min(seconds),
        "ms_max": 1e3 * max(seconds),
    }


def errors(result: Tensor, truth: Tensor) -> dict[str, Any]:
    """Return how far a result is from the truth, relative to the truth's norm and to its largest value."""
    difference = result.double() - truth.double()
    return {
        "error": float(difference.norm() / truth.double().norm()),
        "max_error": float(difference.abs().max() / truth.double().abs().max()),
        "finite": bool(torch.isfinite(result).all()),
    }


def copy_bytes_per_second(device: torch.device) -> float:
    """Return bytes read and written a second by a large copy."""
    size = 1 << 29 if device.type == "cuda" else 1 << 20
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / statistics.median(seconds_of([lambda: target.copy_(source)], device, graph=False))


def matrix_flops_per_second(device: torch.device) -> float:
    """Return floating-point operations a second of a large bfloat16 matrix product."""
    size = 8192 if device.type == "cuda" else 64
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * size**3 / statistics.median(seconds_of([lambda: a @ b], device, graph=False))


def _between_events(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _clocked(calls: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def _nvml(ask: Callable[[Any, Any], Any], device: torch.device) -> Any:
    """Return what NVIDIA's management library says; None where it is not there."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return ask(pynvml, pynvml.nvmlDeviceGetHandleByIndex(device.index or 0))
    except Exception:  # not installed, no NVIDIA card, not allowed: the row goes without
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
