"""The trainer beside a loop written by hand, the stall of checkpoints, and what decoding ahead is worth.

The goals: at most 2 % more time than the bare loop, and less than 2 % of it spent waiting for data, on the recipe of
`corrnet demo`. `pytest --benchmark bench/train` takes few steps; with CORR_OPS_BENCHMARK=full hundreds.

Predicted before the first measurement, for steps of about 100 ms: 0.3 to 1 % more time with log lines, 2 to 3 % with a
progress bar that draws ten times a second, less than 0.5 % of waiting with one worker and 15 % with none; checkpoints
that stop training for 2 to 5 ms (the recipe) and 0.2 to 0.5 s (CorrNet-101 with SGD).
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
import torch
from rich.console import Console

from bench.interleave import quantiles
from bench.ops.cases import FULL
from bench.train.loops import BareLoop, Laps, Turns, make_config, make_shards
from bench.train.train_report import AGAIN, BARE, OURS, SAVING
from corrnet_models import create_model
from corrnet_train.checkpoint.async_writer import CheckpointWriter
from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.config.schema import OptimConfig
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.optim import build_optimizer
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.malloc import keep_freed_memory

BLOCK = 5  # the recipe writes a log line every 5 steps
CASES = {
    "log lines": (300, False, ()),
    "progress bar": (300, True, ()),
    "log lines, 1 clip a step": (2000, False, ("optim.batch_size=1",)),
}


@pytest.fixture(autouse=True)
def _as_the_command_runs() -> Iterator[None]:
    """One thread, and memory handling as in `corrnet train`."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("motionbench"))


@contextmanager
def quiet_console(bar: bool) -> Iterator[Console]:
    """A console that nobody sees; with `bar` it counts as a terminal."""
    with Path(os.devnull).open("w") as nowhere:
        yield Console(file=nowhere, force_terminal=bar, width=100)


def columns(table: str, case: str, provider: str) -> dict[str, object]:
    load = os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0
    return {"table": table, "case": case, "provider": provider, "threads": 1, "load": round(load, 1)}


@pytest.mark.parametrize("case", CASES)
def test_overhead(benchmark, record, shards, tmp_path, case):
    num_steps, bar, overrides = CASES[case]
    num_steps = num_steps if FULL else num_steps // 10
    every = f"run.checkpoint_every={2 * BLOCK}"  # in every other block
    config = make_config(shards, tmp_path / "run", every, *overrides, num_steps=num_steps)
    with quiet_console(bar) as console:
        trainer = Trainer(config, console=console)
        loops = [BareLoop(config), BareLoop(config)]
        turns = Turns(trainer, loops, block=BLOCK)
        benchmark.pedantic(trainer.run, rounds=1)
    loops[0].take(trainer.step - loops[0].step)
    ours, bare = trainer.model.state_dict(), loops[0].model.state_dict()
    assert all(torch.equal(ours[name], bare[name]) for name in ours), "the loops did not do the same work"

    base, again = turns.bare
    rounds = range(len(turns.saved))
    chosen = {
        BARE: (base, list(rounds)),
        AGAIN: (again, list(rounds)),
        OURS: (turns.ours, [i for i in rounds if not turns.saved[i]]),
        SAVING: (turns.ours, [i for i in rounds if turns.saved[i]]),
    }
    common = {"block": BLOCK, "checkpoint_every": 100}
    rows = [
        {**columns("overhead", case, name), **common, **compared(laps, base, which)}
        for name, (laps, which) in chosen.items()
    ]
    record("train", rows)


def compared(laps: Laps, base: Laps, which: list[int]) -> dict[str, object]:
    """Milliseconds of the chosen blocks and their ratios to the bare loop's beside them, by clock and processor."""
    times = quantiles([1e3 * laps.seconds[i] for i in which])
    ratios = quantiles([laps.seconds[i] / base.seconds[i] for i in which])
    processor = quantiles([laps.processor[i] / base.processor[i] for i in which])
    return {
        "rounds": len(which),
        "cpu_ms50": 1e3 * median(laps.processor[i] for i in which),
        **dict(zip(("ms20", "ms50", "ms80"), times, strict=True)),
        **dict(zip(("ratio20", "ratio50", "ratio80"), ratios, strict=True)),
        **dict(zip(("cpu_ratio20", "cpu_ratio50", "cpu_ratio80"), processor, strict=True)),
    }


def test_loading(benchmark, record, shards, tmp_path):
    """Whole runs with no, one and two decoding processes, in turns."""
    num_steps, rounds = (40, 8) if FULL else (20, 2)
    waits: dict[int, list[float]] = {0: [], 1: [], 2: []}
    speeds: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def run_all() -> None:
        order = list(waits)
        for number in range(rounds):
            for num_workers in order:
                folder = tmp_path / f"{num_workers}-{number}"
                config = make_config(shards, folder, f"data.num_workers={num_workers}", num_steps=num_steps)
                with quiet_console(bar=False) as console:
                    Trainer(config, console=console).run()
                lines = [line for line in read_metrics(folder) if line["kind"] == "train"]
                waits[num_workers] += [
                    line["data_wait"] for line in lines[1:]
                ]  # processes start in the first
                speeds[num_workers].append(median(line["clips_per_second"] for line in lines[1:]))
            order.append(order.pop(0))

    benchmark.pedantic(run_all, rounds=1)
    rows = []
    for num_workers, own in speeds.items():
        ratios = quantiles([speed / none for speed, none in zip(own, speeds[0], strict=True)])
        rows.append(
            {
                **columns("loading", "log lines", f"data.num_workers={num_workers}"),
                "rounds": rounds,
                "clips_per_second": median(own),
                **dict(zip(("ratio20", "ratio50", "ratio80"), ratios, strict=True)),
                **dict(zip(("wait20", "wait50", "wait80"), quantiles(waits[num_workers]), strict=True)),
            }
        )
    record("train", rows)


@pytest.mark.parametrize(("model", "optimizer"), [("corrnet_tiny", "adamw"), ("corrnet101", "sgd")])
def test_checkpoints(benchmark, record, tmp_path, model, optimizer):
    """How long training waits for a save, and how long the write goes on beside it."""
    checkpoint = make_checkpoint(model, optimizer)
    writer, stalls, writes = CheckpointWriter(), [], []

    def save() -> None:
        before, start = writer.stalled, time.perf_counter()
        writer.save(checkpoint, tmp_path / "last.pt")
        stalls.append(writer.stalled - before)
        writer.wait()
        writes.append(time.perf_counter() - start)

    benchmark.pedantic(save, rounds=20 if FULL else 3, warmup_rounds=1)
    record(
        "train",
        [
            {
                **columns("checkpoints", optimizer, model),
                "rounds": len(stalls) - 1,
                "megabytes": (tmp_path / "last.pt").stat().st_size / 1e6,
                **dict(zip(("ms20", "ms50", "ms80"), quantiles([1e3 * s for s in stalls[1:]]), strict=True)),
                "write_ms50": 1e3 * median(writes[1:]),
            }
        ],
    )


def make_checkpoint(name: str, optimizer_name: str) -> Checkpoint:
    """What a run of this model saves after its first step."""
    model = create_model(name, num_classes=8)
    optimizer = build_optimizer(model, OptimConfig(name=optimizer_name))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return Checkpoint(
        step=1,
        config={},
        classes=[],
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        loader={},
        rng=[{"cpu": torch.get_rng_state()}],
        best_score=0.0,
        train_seconds=0.0,
    )
