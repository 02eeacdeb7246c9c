"""How processes find each other when they start, also after a restart that left old addresses behind."""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from video_data.utils.messages import some_of

T = TypeVar("T")


def kept_store(*, timeout: float) -> Store:
    """Return the store of torchrun, which keeps it over all restarts (pytorch/pytorch#135712).

    Raises:
        RuntimeError: It was not reached.
        ConnectionRefusedError: torchrun has ended.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # The store was there before this process: torch would wait for one that will not come again.
        with socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout):
            pass
    store: Store = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))[0]
    return store


def fresh_store(store: Store, rank: int, world_size: int, *, timeout: float) -> Store:
    """Return a store that is kept over restarts, with names that belong to this start of the processes alone.

    A process that reads the address of one that was killed waits for it in vain, and the count of restarts may differ
    between machines.

    Raises:
        TimeoutError: The others did not come.
    """
    return PrefixStore(meet(store, rank, world_size, timeout=timeout), store)


def meet(store: Store, rank: int, world_size: int, *, timeout: float) -> str:
    """Return a name that all processes of this start agree on, and no other start has.

    Each process greets with a name it has made up. Rank 0 repeats the names; who finds his own there knows that
    this is the rank 0 of his own start.

    Raises:
        TimeoutError: Names the ranks that did not come.
    """
    store = PrefixStore("corrnet/meet", store)
    own = uuid.uuid4().hex
    if rank == 0:
        greeted: dict[int, str] = {}

        def all_are_here() -> str | None:
            nonlocal greeted
            found = {other: store.get(f"{other}").decode() for other in others if store.check([f"{other}"])}
            if found != greeted:
                greeted = found
                store.set("welcome", json.dumps([own, list(found.values())]))
            return own if store.check([f"{own}/{other}" for other in others]) else None

        others = range(1, world_size)
        return _poll(all_are_here, timeout, lambda: _absent(store, own, others)) if world_size > 1 else own

    def is_welcome() -> str | None:
        if not store.check(["welcome"]):
            return None
        session, names = json.loads(store.get("welcome"))
        return str(session) if own in names else None

    store.set(f"{rank}", own)
    session = _poll(is_welcome, timeout, lambda: "rank 0 did not come")
    store.set(f"{session}/{rank}", "here")
    return session


def _absent(store: Store, session: str, others: range) -> str:
    absent = [f"{other}" for other in others if not store.check([f"{session}/{other}"])]
    return f"rank{'s' * (len(absent) > 1)} {some_of(absent)} did not come"


def _poll(ask: Callable[[], T | None], timeout: float, complaint: Callable[[], str]) -> T:
    """Ask until there is an answer, ever less often."""
    deadline, pause = time.monotonic() + timeout, 0.005
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(complaint())
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    return answer
