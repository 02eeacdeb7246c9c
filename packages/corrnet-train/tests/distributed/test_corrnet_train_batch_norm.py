"""Batch norm over processes, played by threads; `test_corrnet_train_ranks` has real ones."""

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from corrnet_train.distributed.ranks import Ranks
from corrnet_train.distributed.sync_batchnorm import DeviceSyncBatchNorm

WORLD_SIZE = 2


@dataclass(frozen=True)
class Thread(Ranks):
    """One of the threads; they exchange tensors through a dictionary."""

    barrier: threading.Barrier | None = None
    given: dict = field(default_factory=dict)

    def all(self, tensor):
        self.given[self.rank] = tensor.clone()
        self.barrier.wait(60)
        tensors = [self.given[rank] for rank in range(self.world_size)]
        self.barrier.wait(60)
        return tensors

    def sum_(self, tensor):
        tensor.copy_(sum(self.all(tensor)))


@pytest.fixture
def norms(monkeypatch):
    """The module of checks, and torch.distributed among threads."""
    own = threading.local()
    monkeypatch.setattr(dist, "get_world_size", lambda: WORLD_SIZE)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: own.ranks.sum_(tensor))
    monkeypatch.setattr(
        dist,
        "all_gather",
        lambda out, tensor: [a.copy_(b) for a, b in zip(out, own.ranks.all(tensor), strict=True)],
    )
    monkeypatch.syspath_prepend(Path(__file__).with_name("ranks"))
    module = importlib.import_module("norms")
    module.own = own
    return module


def run(norms, check, *args):
    barrier, given = threading.Barrier(WORLD_SIZE), {}

    def one(rank):
        norms.own.ranks = Thread(rank=rank, world_size=WORLD_SIZE, barrier=barrier, given=given)
        try:
            check(norms.own.ranks, *args)
        except BaseException:
            barrier.abort()  # the other one must not wait
            raise

    with ThreadPoolExecutor(WORLD_SIZE) as pool:
        results = [pool.submit(one, rank) for rank in range(WORLD_SIZE)]
    for error in [result.exception() for result in results]:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error


def test_batch_norm_of_processors_is_that_over_all_clips(norms):
    run(norms, norms.sync_batch_norm_equals_batch_norm)


def test_batch_norm_of_gpus_is_that_over_all_clips(norms, monkeypatch):
    for name, function in norms.batch_norm_functions.ALL.items():
        monkeypatch.setattr(torch, f"batch_norm_{name}", function)
    run(norms, norms.sync_batch_norm_equals_batch_norm, DeviceSyncBatchNorm)


def test_precise_statistics_are_those_of_all_clips(norms):
    run(norms, norms.precise_statistics_are_those_of_all_clips)
