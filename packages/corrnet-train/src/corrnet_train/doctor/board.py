"""A board on which processes leave their findings for each other while they are checked.

It is the store with which torchrun's processes find each other, without a process group: so it still tells who did
not answer when a collective hangs.
"""

import contextlib
import os
import socket
import time
from datetime import timedelta

# torch.distributed has them too, but not their types.
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from corrnet_train.distributed.ranks import Ranks, RanksError


class Board:
    """A place where each process posts values that all can read.

    Args:
        ranks: The processes.
        store: As `connect` gives it.
    """

    def __init__(self, ranks: Ranks, store: Store) -> None:
        self._ranks = ranks
        self._lost: set[int] = set()
        self._store = PrefixStore(f"doctor-{ranks.restarts}", store)

    def post(self, key: str, value: str) -> None:
        """Post a value of this process; never raise, others will say that it is missing."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"{key}/{self._ranks.rank}", value)

    def read(self, key: str, rank: int, *, timeout: float) -> str | None:
        """Return what a process has posted, or None when it has not within `timeout` seconds."""
        name, deadline, pause = f"{key}/{rank}", time.monotonic() + timeout, 0.002
        try:
            while not self._store.check([name]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(pause)
                pause = min(0.1, 1.5 * pause)
            content: bytes = self._store.get(name)
        except RuntimeError:  # the store is gone with its process
            return None
        return content.decode()

    def collect(self, key: str, *, timeout: float) -> list[str | None]:
        """Return what each process has posted, None where it has not within `timeout` seconds.

        Processes that were missing once are not waited for again.
        """
        deadline = time.monotonic() + timeout
        values: list[str | None] = []
        for rank in range(self._ranks.world_size):
            wait = 0.0 if rank in self._lost else deadline - time.monotonic()
            values.append(self.read(key, rank, timeout=wait))
            if values[-1] is None:
                self._lost.add(rank)
        return values


def connect(ranks: Ranks, *, timeout: float) -> Store:
    """Return the store of all processes; one process without torchrun has its own.

    Args:
        ranks: The processes.
        timeout: Seconds to wait for the machine of rank 0.

    Raises:
        RanksError: The machine of rank 0 cannot be reached in time.
    """
    if not ranks.launched:
        return HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = ranks.is_first and not by_agent
    if not serves:
        _wait_for_port(ranks, host, port, timeout)
    try:
        return TCPStore(
            host,
            port,
            is_master=serves,
            wait_for_workers=False,
            multi_tenant=not by_agent,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        reason = f"{error}".strip().partition("\n")[0]
        raise RanksError(f"{ranks.name}: no store of torch at {host}:{port}: {reason}") from None


def _wait_for_port(ranks: Ranks, host: str, port: int, timeout: float) -> None:
    """Wait until rank 0's machine answers; torch's store would print a stack for each try."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RanksError(
                    f"{ranks.name} cannot reach rank 0 at {host}:{port} within {timeout:g} s: {error}. Check that the "
                    "name resolves, that a firewall lets the port through and that rank 0 has started"
                ) from None
            time.sleep(0.1)
