"""The processes that train together: who they are, what they tell each other, and the device of each.

`torchrun` starts them and says in environment variables who is who. Without it there is one process and nothing here
does anything.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from corrnet_train.distributed.rendezvous import fresh_store, kept_store
from corrnet_train.utils.errors import InputError, Kind, WorkError, kind_of

T = TypeVar("T")

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_BEGUN = "corrnet/begun"


class RanksError(WorkError):
    """The processes that train together can no longer go on together; the message says why."""


E = TypeVar("E", bound=Exception)


def on_every_rank(error: E) -> E:
    """Mark an error that all processes raise, so that only the first one prints it."""
    error.on_every_rank = True  # type: ignore[attr-defined]
    return error


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
        local_world_size: Processes on this machine.
        launched: Whether torchrun has started it; then there is a process group, even for one process.
        launcher: Process id of torchrun; None where something else set its variables.
        restarts: How often torchrun has started the processes again.
        kept: torchrun's store, which outlives the processes; None without torchrun.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    launched: bool = False
    launcher: int | None = None
    restarts: int = 0
    kept: Store | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_environment(cls) -> "Ranks":
        """Read what torchrun says.

        Raises:
            ValueError: Some of its variables are set and others are not, or are no numbers.
        """
        if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
            return cls()
        missing = [name for name in TORCHRUN_VARIABLES if name not in os.environ]
        if missing:
            raise InputError(
                f"several processes are started by torchrun, which sets {', '.join(TORCHRUN_VARIABLES)}; "
                f"not set: {', '.join(missing)}. For one process unset RANK and WORLD_SIZE"
            )
        try:
            rank, world_size, local_rank, local_world_size = (
                int(os.environ[name]) for name in TORCHRUN_VARIABLES[:4]
            )
        except ValueError:
            given = ", ".join(f"{name}={os.environ[name]!r}" for name in TORCHRUN_VARIABLES[:4])
            raise InputError(f"these must be whole numbers, as torchrun sets them: {given}") from None
        if not (0 <= rank < world_size and 0 <= local_rank < local_world_size <= world_size):
            raise InputError(
                f"RANK={rank} of WORLD_SIZE={world_size}, LOCAL_RANK={local_rank} of "
                f"LOCAL_WORLD_SIZE={local_world_size}: ranks count from 0 and stay below their world size"
            )
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        return cls(
            rank,
            world_size,
            local_rank,
            local_world_size,
            launched=True,
            launcher=os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None,
            restarts=restarts,
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """How messages call this process."""
        return f"rank {self.rank} of {self.world_size} on {socket.gethostname()}"

    @property
    def was_restarted(self) -> bool:
        """Whether torchrun has started the processes again after they began to work."""
        return self.restarts > 0 and self.kept is not None and self.kept.check([_BEGUN])

    def note_begun(self) -> None:
        """Tell later starts that this one was not refused before it began: torchrun starts the processes again."""
        if self.kept is not None:
            self.kept.set(_BEGUN, "yes")

    def device(self, name: str) -> torch.device:
        """Return the device of this process for a `run.device` setting: on GPUs the one with its local rank.

        Raises:
            ValueError: The name is unknown, or this machine has too few such devices for its processes.
        """
        device = _parse_device(name)
        if device.type != "cuda":
            return device
        if self.local_world_size > 1 and device.index is not None:
            raise InputError(
                f"device {name} is one GPU, but {self.local_world_size} processes run on this machine: "
                "give cuda, and each takes its own"
            )
        index = self.local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise InputError(
                f"device cuda:{index} is not there: torch sees {torch.cuda.device_count()} CUDA devices"
                + (
                    f" for {self.local_world_size} processes on this machine; start fewer with --nproc-per-node"
                    if self.local_world_size > 1
                    else ""
                )
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def sum_(self, tensor: Tensor) -> None:
        """Sum a tensor over the processes, in place."""
        if self.world_size > 1:
            with readable_errors(self):
                dist.all_reduce(tensor)

    def any(self, value: bool) -> bool:
        """Whether it is true in one of the processes; all of them call it."""
        count = torch.tensor(float(value))
        self.sum_(count)
        return count.item() > 0

    def gather(self, value: T) -> list[T]:
        """Return what each process has given, in the order of ranks, on every process. Plain values and CPU tensors."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with readable_errors(self):
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Enter a block without communication; if it fails in one process it fails in all of them.

        Raises:
            InputError: It failed for what was given; the message names the rank unless all said the same.
            WorkError: It failed somewhere for another reason; one process has more to say of it where it is a bug.
            Exception: The error of this process as it is, where that is a bug.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.world_size == 1:
                raise
            error = caught
        if self.world_size == 1:
            return
        failed = [item for item in self.gather(self._own(error)) if item is not None]
        if not failed:
            return
        messages = {message for _, message, _ in failed}
        is_common = len(failed) == self.world_size and len(messages) == 1
        if error is not None and kind_of(error) == "bug":
            raise on_every_rank(error) if is_common else error
        if is_common:
            message = messages.pop()
        else:
            message = "\n".join(f"{name}: {message}" for _, message, name in failed)
        bad_input = all(kind == "bad input" for kind, _, _ in failed)
        raise on_every_rank(InputError(message) if bad_input else WorkError(message)) from error

    def _own(self, error: Exception | None) -> tuple[Kind, str, str] | None:
        """Return what the other processes are told of an error of this one."""
        if error is None:
            return None
        kind = kind_of(error)
        return kind, f"{type(error).__name__}: {error}" if kind == "bug" else f"{error}", self.name

    def check_equal(self, what: str, value: str) -> None:
        """Check that all processes were given the same.

        Raises:
            ValueError: They differ; the message names a rank that differs from rank 0.
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise on_every_rank(
                    InputError(f"{what} differs: rank 0 has {values[0]}, rank {rank} has {other}")
                )


ONE_RANK = Ranks()


def resolve_device(name: str) -> torch.device:
    """Return the device of a `run.device` setting where one process runs; "auto" is CUDA when there is one.

    Raises:
        ValueError: The name is unknown or this machine has no such device.
    """
    device = _parse_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


@contextmanager
def joined_ranks(device_name: str, *, timeout: float) -> Iterator[Ranks]:
    """Join the processes that torchrun started: NCCL and gloo on GPUs, gloo on CPUs.

    Args:
        device_name: A `run.device` setting.
        timeout: Seconds after which waiting for another process is an error.

    Raises:
        ValueError: See `Ranks.from_environment` and `Ranks.device`.
        RanksError: The processes did not find each other in time.
    """
    ranks = Ranks.from_environment()
    if not ranks.launched:
        yield ranks
        return
    device = ranks.device(device_name)
    gpu = device.type == "cuda"
    try:
        ranks = replace(ranks, kept=(kept := kept_store(timeout=timeout)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=fresh_store(kept, ranks.rank, ranks.world_size, timeout=timeout),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timedelta(seconds=timeout),
            device_id=device if gpu else None,
        )
    except ConnectionRefusedError:
        raise RanksError(f"{ranks.name} ends, because the torchrun that started it has ended") from None
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RanksError(
            f"{ranks.name} did not find the other processes at {address} within {timeout:g} s: "
            f"{_first_line(error)}"
        ) from None
    yield ranks
    dist.destroy_process_group()  # after an error it could wait for processes that are gone


@contextmanager
def readable_errors(ranks: Ranks, *, computes: bool = False) -> Iterator[None]:
    """Enter a block that exchanges something.

    Args:
        ranks: The processes.
        computes: Whether the block does other things too, whose errors stay what they are.

    Raises:
        RanksError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        of_exchange = isinstance(error, dist.DistError) or "gloo/" in str(error)  # gloo names its source file
        if isinstance(error, RanksError) or (computes and not of_exchange):
            raise
        raise RanksError(
            f"{ranks.name} lost another process, whose own message says why: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__


def _parse_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r}: give auto, cpu, cuda or cuda:N")
    return device
