"""Checks one after the other, each with a time-out, on all processes in step."""

import faulthandler
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from corrnet_train.distributed.ranks import Ranks
from corrnet_train.doctor.board import Board
from corrnet_train.doctor.finding import CheckResult, Finding, failed, worst

_SLACK = 5.0  # seconds that processes may be apart beyond a check's own limit


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is checked.

    Attributes:
        device: As `run.device` of a recipe.
        shards: Folder or URL of shards; None leaves them out.
        run_dir: Folder for a run; None leaves it out.
        num_workers: Decoding processes of each training process, `data.num_workers`.
        model: Name of the model whose gradients and checkpoints are counted.
        timeout: Seconds after which a check that has not ended has failed.
    """

    device: str = "auto"
    shards: str | None = None
    run_dir: Path | None = None
    num_workers: int = 2
    model: str = "corrnet26"
    timeout: float = 60


@dataclass
class Context:
    """What checks work on and leave for later ones.

    Attributes:
        options: What is checked.
        ranks: The processes.
        board: Where they tell each other what they found.
        device: The device of this process, once it is known.
        names: How messages call the processes, once they have told their hosts.
        stack: What ends with the checks, like the process group.
        broken: Names of the checks that have failed or could not be made.
        gone: Ranks that did not answer to an earlier check.
    """

    options: Options
    ranks: Ranks
    board: Board
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    names: list[str] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    broken: set[str] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = self.names or [f"rank {rank}" for rank in range(self.ranks.world_size)]


class Combine(Protocol):
    """Puts the findings of all processes into one."""

    def __call__(self, findings: Sequence[Finding], names: Sequence[str], /) -> Finding:
        """One finding of those of the processes, which `names` names."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        name: What is checked.
        run: Looks at it on this process.
        advice: What to do when it fails or does not end.
        combine: Puts what all processes have found into one, when all have answered and none failed.
        needs: Names of checks without which this one tells nothing.
    """

    name: str
    run: Callable[[Context], Finding]
    advice: str
    combine: Combine = worst
    needs: tuple[str, ...] = ()


def run_checks(
    checks: Sequence[Check], context: Context, *, on_start: Callable[[str], None] = lambda name: None,
    on_result: Callable[[CheckResult], None] = lambda result: None,
) -> list[CheckResult]:  # fmt: skip
    """Run checks; all processes call it with the same ones.

    Args:
        checks: What to check, in this order.
        context: What they work on.
        on_start: Told the name of each check before it starts.
        on_result: Told what each has found over all processes.
    """
    results = []
    for check in checks:
        on_start(check.name)
        start = time.perf_counter()
        broken = [name for name in check.needs if name in context.broken]
        if broken:
            own = Finding(status="skipped", result=f"after what was found for {', '.join(broken)}")
        else:
            own = limited(check, context)
        context.board.post(check.name, own.model_dump_json())
        posted = context.board.collect(check.name, timeout=context.options.timeout + _SLACK)
        ranks = tuple(
            own if rank == context.ranks.rank else None if text is None else Finding.model_validate_json(text)
            for rank, text in enumerate(posted)  # the own one also where the store is gone
        )
        _learn_names(ranks, context)
        result = CheckResult(
            name=check.name,
            seconds=time.perf_counter() - start,
            summary=_summary(check, ranks, context),
            ranks=ranks,
        )
        if result.summary.status in ("failed", "skipped"):
            context.broken.add(check.name)
        context.gone |= {rank for rank, finding in enumerate(ranks) if finding is None}
        results.append(result)
        on_result(result)
    return results


def _learn_names(ranks: Sequence[Finding | None], context: Context) -> None:
    for rank, finding in enumerate(ranks):
        if finding is not None and "host" in finding.figures:
            context.names[rank] = f"rank {rank} on {finding.figures['host']}"


def limited(check: Check, context: Context) -> Finding:
    """Return what a check finds on this process; an error or no answer in time is a finding too."""
    answer: queue.SimpleQueue[Finding] = queue.SimpleQueue()

    def work() -> None:
        try:
            if context.device.type == "cuda":
                torch.cuda.set_device(context.device)  # each thread has its own
            answer.put(check.run(context))
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            answer.put(failed(f"{error}" or type(error).__name__, check.advice))
        except Exception as error:  # a check says what it meets, whatever it is
            answer.put(failed(f"{type(error).__name__}: {error}", check.advice))

    thread = threading.Thread(target=work, name=f"check {check.name}", daemon=True)
    with _watchdog(context.options.timeout + _SLACK):
        thread.start()
        try:
            return answer.get(timeout=context.options.timeout)
        except queue.Empty:
            return failed(f"no answer within {context.options.timeout:g} s", check.advice)


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """End this process when a check holds the interpreter itself for so long; print where that is."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _summary(check: Check, ranks: Sequence[Finding | None], context: Context) -> Finding:
    """One finding of those of all processes; who was missing before is not told again."""
    late = failed(
        f"did not answer within {context.options.timeout + _SLACK:g} s",
        "see what that process printed, and whether it still runs",
    )
    here = [rank for rank in range(len(ranks)) if rank not in context.gone]
    findings = [ranks[rank] or late for rank in here]
    names = [context.names[rank] for rank in here]
    if any(finding.status in ("failed", "skipped") for finding in findings):
        return worst(findings, names)
    return check.combine(findings, names)
