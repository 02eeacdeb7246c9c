"""`corrnet doctor`: checks a machine, or all processes of a run, before an expensive one."""

import shlex
from collections.abc import Callable
from typing import Any

from corrnet_train.distributed.ranks import Ranks
from corrnet_train.doctor import correlation, folder, group, machine, video
from corrnet_train.doctor.board import Board, connect
from corrnet_train.doctor.checkup import Check, Context, Options, run_checks
from corrnet_train.doctor.finding import CheckResult, Finding
from video_data.utils.messages import hide_secrets

__all__ = ["CheckResult", "Context", "Finding", "Options", "choose_checks", "examine"]

_NETWORK = (
    "open the ports between the machines; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network; "
    "NCCL_DEBUG=INFO shows more"
)
_PYAV = "install the PyAV wheel of the package index: pip install --force-reinstall av"


def examine(options: Options, **listeners: Callable[[Any], None]) -> tuple[Context, list[CheckResult]]:
    """Run all checks, on this process or, where torchrun started several, on all of them in step.

    Args:
        options: What is checked.
        **listeners: `on_start` and `on_result` of `run_checks`.

    Raises:
        ValueError: torchrun's variables are wrong.
        RanksError: Rank 0 cannot be reached.
    """
    ranks = Ranks.from_environment()
    context = Context(
        options=options, ranks=ranks, board=Board(ranks, connect(ranks, timeout=options.timeout))
    )
    return context, run_checks(choose_checks(options, launched=ranks.launched), context, **listeners)


def choose_checks(options: Options, *, launched: bool) -> list[Check]:
    """Return the checks for these options, in order; those of a process group only for processes of torchrun."""
    return [
        *_SOFTWARE,
        *(_TOGETHER if launched else ()),
        Check(
            name="operator",
            run=correlation.operator,
            advice="reinstall corr-ops, torch and triton; the first kernel may take long to compile: --timeout",
            needs=("device",),
        ),
        *([_shards(options.shards)] if options.shards is not None else ()),
        Check(name="decoder", run=video.decoder, advice=_PYAV),
        *([_RUN_FOLDER] if options.run_dir is not None else ()),
        *_LIMITS,
    ]


_SOFTWARE = (
    Check(
        name="processes",
        run=machine.process,
        combine=machine.processes,
        advice="see what this process printed, and whether it still runs",
    ),
    Check(
        name="versions",
        run=machine.versions,
        combine=machine.same_versions,
        advice="install the packages again",
    ),
    Check(
        name="device",
        run=machine.device,
        combine=machine.devices,
        advice="nvidia-smi shows what the driver sees; --device cpu checks without GPUs",
    ),
)
_TOGETHER = (
    Check(name="process group", run=group.process_group, advice=_NETWORK, needs=("processes", "device")),
    Check(name="all-reduce", run=group.all_reduce, advice=_NETWORK, needs=("process group",)),
    Check(
        name="bandwidth",
        run=group.bandwidth,
        advice="a longer --timeout, or a faster network",
        needs=("process group", "all-reduce"),
    ),
)
_RUN_FOLDER = Check(
    name="run folder",
    run=folder.run_folder,
    advice="give a folder that this user may write, on storage that answers",
)
_LIMITS = (
    Check(name="shared memory", run=machine.shared_memory, advice="look at /dev/shm"),
    Check(name="cores", run=machine.cores, combine=machine.enough_cores, advice="nproc shows them"),
    Check(name="open files", run=machine.open_files, advice="ulimit -n shows it"),
)


def _shards(path: str) -> Check:
    return Check(
        name="shards",
        run=video.shards,
        combine=video.same_shards,
        advice=f"{hide_secrets(shlex.join(['corrnet', 'verify', path]))} looks closer",
    )
