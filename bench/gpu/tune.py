"""Stage `tune`: launch configurations chosen by measuring, and the operator beside convolutions and the reference.

Processes compile all candidates first, each into Triton's cache on disk; then they are timed one after the other on
random data, at one clip and at eight. What is fastest over both batches together (the geometric mean) is written to
`configs.json` in the stage's folder: entries of the operator's table, not yet in it, for a person to compare and adopt.
"""

import itertools
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.gpu import kernels
from bench.gpu.measure import Rows, num_sets, seconds_of
from bench.interleave import Contender, alternate, row
from bench.ops.cases import KERNEL_SIZE, OPTIONS, Case, convolution, correlation
from corr_ops.impl import triton as backend
from corr_ops.impl.triton import configs, launch

Entry = dict[str, Any]
# Name in the table of configurations -> name in `kernels.launches`, dtype. 16 bit first.
KERNELS = {
    "grad_frames_16_bit": ("gradient of frames", torch.bfloat16),
    "forward_dot": ("forward", torch.bfloat16),
    "grad_filters_dot": ("gradient of filters", torch.bfloat16),
    "forward_exact": ("forward", torch.float32),
    "grad_frames_exact": ("gradient of frames", torch.float32),
    "grad_filters_exact": ("gradient of filters", torch.float32),
}
LANES, WARPS, STRIPS = (16, 32, 64, 128, 256), (1, 2, 4, 8), ([7, 4], [4])
SPLITS = ((16, 8), (16, 4), (16, 2), (32, 8), (32, 4), (32, 2), (64, 2))
"""Largest number of splits and fewest tiles of one, for the gradient of the filters."""


def candidates(kernel: str, target: str) -> Iterator[Entry]:
    """Yield the configurations to try: entries of the table."""
    columns = {"columns": 16 if target.startswith("hip") else 8} if kernel.endswith("_dot") else {}
    for lanes, num_warps, strips in itertools.product(LANES, WARPS, STRIPS):
        # A matrix product takes 16 lanes of a warp; more than 128 lanes a warp are more than registers hold.
        if (not columns or num_warps <= lanes // 16) and lanes // num_warps <= 64:
            entry = {"kernel": kernel, "target": target, "lanes": lanes, "num_warps": num_warps}
            yield {**entry, "strips": strips, **columns}


def compile_and_count(kernel: str, stage: tuple[Any, ...], entry: Entry) -> dict[str, Any]:
    """Compile and run a candidate on one clip; return its registers and spilled bytes."""
    from corr_ops.impl.triton import kernels as code

    name, dtype = KERNELS[kernel]
    inputs = kernels.Inputs(Case(*stage, 1), dtype, torch.device("cuda", 0))
    with mock.patch.object(configs, "_table", lambda: [entry]):
        planned = kernels.plan(name, inputs)
    constants = backend.compiled_constants(planned)
    function = getattr(code, planned.kernel)
    compiled = function[planned.grid](**planned.arguments, **constants, num_warps=planned.num_warps)
    return {"registers": compiled.n_regs, "spilled_bytes": 4 * compiled.n_spills}


def run(rows: Rows, device: torch.device, folder: Path, *, tiny: bool = False) -> None:
    """Compile, time, choose; then the operator beside others."""
    stages = kernels.TINY if tiny else kernels.STAGES
    batches = (1,) if tiny else kernels.BATCHES
    peers(rows, stages, batches[:1], device)
    target = backend._target(device)
    chosen: list[Entry] = []
    for names in (list(KERNELS)[:3], list(KERNELS)[3:]):
        jobs = [
            (name, stage, entry) for name in names for entry in candidates(name, target) for stage in stages
        ]
        if tiny:
            jobs = jobs[:2]
        usable = _compile_all(rows, jobs, device)
        for name, stage in dict.fromkeys((name, stage) for name, stage, _ in usable):
            entries = [entry for n, s, entry in usable if (n, s) == (name, stage)]
            if best := _fastest(rows, name, stage, entries, batches, device):
                chosen.append(best)
                text = ",\n".join(f"  {json.dumps(entry)}" for entry in chosen)
                (folder / "configs.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    for stage, batch in itertools.product(stages, batches):
        rows.attempt(
            "splits",
            partial(_splits, Case(*stage, batch), device, SPLITS[:1] if tiny else SPLITS),
            **Case(*stage, batch).columns,
        )
    peers(rows, stages, batches[1:], device)


def _compile_all(rows: Rows, jobs: list[Any], device: torch.device) -> list[Any]:
    """Return the jobs whose candidate compiles without spilling registers; the rest are rows."""
    if device.type != "cuda":
        return jobs
    usable = []
    context = multiprocessing.get_context("spawn")
    failed = 0
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2), mp_context=context) as pool:
        running = {pool.submit(compile_and_count, *job): job for job in jobs}
        for done in as_completed(running):
            if rows.late(share=0.6):
                pool.shutdown(wait=False, cancel_futures=True)
                break
            try:
                kernel, stage, entry = running[done]
                if done.result()["spilled_bytes"] == 0 or _is_in_use(kernel, stage[3], entry):
                    usable.append(running[done])
            except Exception as error:  # too many resources, or refused by the compiler
                failed += 1
                if failed <= 3:
                    rows.add("refused", job=str(running[done]), error=str(error)[:200])
    rows.add("compiled", candidates=len(jobs), usable=len(usable), refused=failed)
    order = {(name, stage): number for number, (name, stage, _) in enumerate(jobs)}
    return sorted(usable, key=lambda job: order[job[0], job[1]])


def _fastest(
    rows: Rows,
    kernel: str,
    stage: tuple[Any, ...],
    entries: list[Entry],
    batches: tuple[int, ...],
    device: torch.device,
) -> Entry | None:
    """Time the candidates and return the fastest as an entry for this width; None when no time is left."""
    name, dtype = KERNELS[kernel]
    sets = {
        batch: [kernels.Inputs(Case(*stage, batch), dtype, device) for _ in range(num_sets(device))]
        for batch in batches
    }
    timed: list[tuple[float, Entry, dict[int, float]]] = []
    for entry in entries:
        if rows.late(share=0.93):
            rows.add("tuned", kernel=kernel, stage=stage[0], skipped="no time left")
            return None
        with mock.patch.object(configs, "_table", lambda entry=entry: [entry]):
            times = {}
            for batch, inputs in sets.items():
                planned = [kernels.plan(name, one) for one in inputs]
                calls = [partial(backend._run, one) for one in planned]
                times[batch] = 1e6 * statistics.median(seconds_of(calls, device, rounds=5))
        timed.append((math.exp(statistics.mean(map(math.log, times.values()))), entry, times))
    timed.sort(key=lambda candidate: candidate[0])
    for rank, (_, entry, times) in enumerate(timed):
        is_now = _is_in_use(kernel, stage[3], entry)
        if rank < 3 or is_now:
            rows.add(
                "tuned",
                kernel=kernel,
                stage=stage[0],
                rank=rank,
                candidates=len(timed),
                in_use=is_now,
                **{f"us_batch_{batch}": us for batch, us in times.items()},
                **{key: entry[key] for key in ("lanes", "num_warps", "strips")},
            )
    return {**timed[0][1], "size": stage[3]}


def _is_in_use(kernel: str, size: int, entry: Entry) -> bool:
    """Return whether the operator's table gives what an entry says."""
    options = {"size": size, "taps": KERNEL_SIZE, "dilation": OPTIONS["dilation"]}
    now = configs.find(kernel, entry["target"], **options)
    with mock.patch.object(configs, "_table", lambda: [entry]):
        return configs.find(kernel, entry["target"], **options) == now


def _splits(case: Case, device: torch.device, splits: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Return the time of the gradient of the filters by its splits, with the sum over them."""
    sets = [kernels.Inputs(case, torch.bfloat16, device) for _ in range(num_sets(device))]
    found = {}
    for most, fewest in splits:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(launch, "_MAX_SPLITS", most))
            stack.enter_context(mock.patch.object(launch, "_MIN_TILES", fewest))
            planned = [kernels.plan("gradient of filters", one) for one in sets]

            def call(one: launch.Launch) -> object:
                backend._run(one)
                return one.arguments["out"].sum(0)

            seconds = seconds_of([partial(call, one) for one in planned], device, rounds=5)
            found[f"us_{most}_{fewest}"] = 1e6 * statistics.median(seconds)
            found[f"splits_{most}_{fewest}"] = planned[0].arguments["out"].shape[0]
    return found


def peers(rows: Rows, stages: Any, batches: tuple[int, ...], device: torch.device) -> None:
    """The operator beside the reference and convolutions: whole calls, all taking turns."""
    for stage, batch in itertools.product(stages, batches):
        case = Case(*stage, batch)
        for direction, (dtype, layout) in itertools.product(
            ("forward", "forward+backward"), (("bfloat16", "channels_last_3d"), ("float32", "contiguous"))
        ):
            measure = partial(_beside_others, case, direction, dtype=dtype, layout=layout, device=device)
            rows.attempt("peers", measure, **case.columns, direction=direction, dtype=dtype)


def _beside_others(case: Case, direction: str, **options: Any) -> dict[str, Any]:
    """Return the times of the contenders and their ratios to the operator's."""
    device = options["device"]
    contenders = [correlation(case, direction, "triton" if device.type == "cuda" else "reference", **options)]
    if case.batch == 1:
        contenders.append(correlation(case, direction, "reference", **options))
    for kernel in ((3, 3, 3), (1, 7, 7)):
        contenders.append(convolution(case, direction, kernel, **options))
    timed = [_as_graph(contender, device) for contender in contenders]
    alternate(timed, rounds=7)
    found = {}
    for contender in timed:
        found[f"{contender.provider}_ms"] = 1e3 * statistics.median(contender.seconds)
        found[f"{contender.provider}_ratio"] = row(contender, timed[0])["ratio50"]
    return found


class _Replayed(Contender):
    """A contender whose calls are replayed as a CUDA graph."""

    repeats = 1

    def time(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        assert self.call is not None
        self.call()
        end.record()
        end.synchronize()
        self.seconds.append(start.elapsed_time(end) / 1e3 / self.repeats)
        return self.seconds[-1]


def _as_graph(contender: Contender, device: torch.device) -> Contender:
    """Return the contender as a graph of as many calls as fill a round; as it is without a GPU."""
    call = contender.call
    if device.type != "cuda" or call is None:
        return contender
    seconds = statistics.median(seconds_of([call], device, rounds=3, graph=False))
    repeats = max(1, round(2e-3 / seconds))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    graph.replay()
    replayed = _Replayed(contender.provider, graph.replay, contender.dtype, contender.layout)
    replayed.repeats = repeats
    return replayed
