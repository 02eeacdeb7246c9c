"""Checks of a machine: versions, devices, shared memory, processor cores, open files."""

import os
import platform
import resource
import shutil
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from corrnet_train.doctor.checkup import Context
from corrnet_train.doctor.finding import Finding, differences, failed, worst
from corrnet_train.utils.versions import version_of
from video_data import ClipConfig
from video_data.utils.messages import some_of
from video_data.utils.workers import available_cores

_PACKAGES = {
    "torch": "torch",
    "triton": "triton",
    "PyAV": "av",
    "numpy": "numpy",
    "corr-ops": "corr-ops",
    "video-data": "video-data",
    "corrnet-models": "corrnet-models",
    "corrnet-train": "corrnet-train",
}
_GIB = 1 << 30
_SHM = Path("/dev/shm")
_BATCHES_PER_WORKER = 3  # two that torch keeps ready and the one being made
_CLIPS_PER_BATCH = 8  # assumed: doctor does not know the recipe
_MOST_HOSTS = 8  # named in a result
_ENOUGH_FILES, _TOO_FEW_FILES = 1024, 256


def process(context: Context) -> Finding:
    """Who this process is."""
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = "unknown"
    figures = {"host": host, "address": address, "pid": os.getpid(), "local_rank": context.ranks.local_rank}
    return Finding(result=context.ranks.name, figures=figures)


def processes(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """Count the processes of each machine, and look at the addresses under which machines know themselves."""
    hosts = Counter(f.figures["host"] for f in findings)
    if len(findings) == 1:
        return Finding(result=f"1 on {next(iter(hosts))}; torchrun starts and checks several")
    listed = ", ".join(f"{number} on {host}" for host, number in list(hosts.items())[:_MOST_HOSTS])
    more = f" and {len(hosts) - _MOST_HOSTS} machines more" if len(hosts) > _MOST_HOSTS else ""
    text = f"all {len(findings)} answered: {listed}{more}"
    own = {f.figures["host"]: f.figures["address"] for f in findings}
    wrong = [f"{host} ({address})" for host, address in own.items() if not _is_reachable(address)]
    if len(hosts) > 1 and wrong and "GLOO_SOCKET_IFNAME" not in os.environ:
        return Finding(
            status="warning",
            result=f"{text}; the own names of these lead to an address that others cannot use: "
            f"{some_of(wrong, most=_MOST_HOSTS)}",
            advice="gloo listens there: give it the network, like GLOO_SOCKET_IFNAME=eth0, or mend /etc/hosts",
        )
    return Finding(result=text)


def _is_reachable(address: str) -> bool:
    return address != "unknown" and not address.startswith("127.")


def versions(context: Context) -> Finding:
    """Versions of Python and of the packages that matter."""
    found = {"Python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        found[name] = version_of(distribution)
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    if torch.cuda.is_available():
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return Finding(result=", ".join(f"{name} {version}" for name, version in found.items()), figures=found)


def same_versions(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """All processes must run the same software."""
    keys = dict.fromkeys(key for finding in findings for key in finding.figures)
    lines = [text for key in keys if (text := differences(findings, names, key))]
    if lines:
        return failed("\n".join(lines), "give all machines the same environment or image")
    return worst(findings, names)


def device(context: Context) -> Finding:
    """Return the device of this process, with its memory and compute capability; sets `context.device`."""
    context.device = context.ranks.device(context.options.device)
    figures: dict[str, Any] = {"device": str(context.device)}
    if context.device.type != "cuda":
        figures |= {"name": _processor_name(), **_system_memory()}
        warning = _unused_gpu() if context.options.device == "auto" else ""
        return Finding(
            status="warning" if warning else "ok",
            result=warning or f"{context.device} ({figures['name']})",
            advice="install a torch build with CUDA that this driver can run" if warning else "",
            figures=figures,
        )
    properties = torch.cuda.get_device_properties(context.device)
    free, total = torch.cuda.mem_get_info(context.device)
    figures |= {
        "name": properties.name,
        "memory_gib": round(total / _GIB, 1),
        "free_gib": round(free / _GIB, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "uuid": str(properties.uuid),
    }
    if free < 0.9 * total:
        return Finding(
            status="warning",
            result=f"{properties.name}: only {free / _GIB:.1f} of {total / _GIB:.1f} GiB are free",
            advice="another program uses this GPU; nvidia-smi shows which",
            figures=figures,
        )
    return Finding(result=properties.name, figures=figures)


def devices(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """Count devices, and find GPUs that two processes share."""
    used = Counter(f.figures["uuid"] for f in findings if "uuid" in f.figures)
    for uuid, number in used.items():
        if number > 1:
            sharing = [name for name, f in zip(names, findings, strict=True) if f.figures.get("uuid") == uuid]
            return failed(
                f"{some_of(sharing)} use one GPU",
                "start one process for each GPU: --nproc-per-node is the number of GPUs of a machine",
            )
    merged = worst(findings, names)
    if merged.status != "ok":
        return merged
    kinds = Counter(f.figures["name"] for f in findings)
    if len(findings) == 1:
        return merged
    listed = ", ".join(f"{number} x {name}" for name, number in kinds.items())
    return Finding(result=listed)


def shared_memory(context: Context) -> Finding:
    """Room in /dev/shm, through which decoding processes hand over batches."""
    num_workers = context.options.num_workers * context.ranks.local_world_size
    if not _SHM.is_dir() or num_workers == 0:
        return Finding(result="not used" if num_workers == 0 else "no /dev/shm on this system")
    clip = ClipConfig()
    batch = _CLIPS_PER_BATCH * clip.num_frames * clip.num_channels * clip.crop_size**2
    free, needed = shutil.disk_usage(_SHM).free, num_workers * _BATCHES_PER_WORKER * batch
    figures = {"free_bytes": free, "needed_bytes": needed}
    text = (
        f"{free / _GIB:.2f} GiB free; {num_workers} decoding processes with batches of {_CLIPS_PER_BATCH} clips of "
        f"{clip.num_frames} x {clip.crop_size} x {clip.crop_size} take up to {needed / _GIB:.2f} GiB"
    )
    advice = "give containers more (docker run --shm-size, an emptyDir of medium Memory), or fewer data.num_workers"
    if free < num_workers * batch:
        return failed(text, advice, **figures)
    if free < needed:
        return Finding(status="warning", result=text, advice=advice, figures=figures)
    return Finding(result=text, figures=figures)


def cores(context: Context) -> Finding:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
    figures = {
        "host": socket.gethostname(),
        "cores": usable,
        "quota": available_cores(),
        "num_workers": context.options.num_workers,
        "local_world_size": context.ranks.local_world_size,
    }
    return Finding(result=f"{len(usable)} cores", figures=figures)


def enough_cores(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """Compare the cores of each process, its share of those that several may use, with its workers."""
    users = Counter((f.figures["host"], core) for f in findings for core in f.figures["cores"])
    shares = []
    for finding in findings:
        figures = finding.figures
        own = sum(1 / users[figures["host"], core] for core in figures["cores"])
        shares.append(min(own, figures["quota"] / figures["local_world_size"]))
    least = min(range(len(shares)), key=shares.__getitem__)
    num_workers = findings[0].figures["num_workers"]
    text = f"cores of a process: {shares[least]:.3g}, its decoding processes: {num_workers}"
    figures = {"cores_per_process": round(shares[least], 2), "num_workers": num_workers}
    if shares[least] < num_workers + 1 and num_workers:
        fewer = max(1, int(shares[least]) - 1)
        advice = f"ask for {num_workers + 1} cores a process (--cpus-per-task)"
        if fewer < num_workers:
            advice += f", or set data.num_workers={fewer}"
        named = f"{names[least]}: " if len(findings) > 1 else ""
        return Finding(status="warning", result=named + text, advice=advice, figures=figures)
    return Finding(result=text, figures=figures)


def open_files(context: Context) -> Finding:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    text = "no limit" if unlimited else f"a process may open {soft} files"
    figures = {"soft": soft, "hard": hard}
    if unlimited or soft >= _ENOUGH_FILES:
        return Finding(result=text, figures=figures)
    return Finding(
        status="failed" if soft < _TOO_FEW_FILES else "warning",
        result=text,
        advice=f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}",
        figures=figures,
    )


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _system_memory() -> dict[str, float]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * page / _GIB, 1),
            "free_gib": round(os.sysconf("SC_AVPHYS_PAGES") * page / _GIB, 1),
        }
    except (ValueError, OSError):
        return {}


def _unused_gpu() -> str:
    """Say that there is a GPU that torch cannot use."""
    if torch.cuda.is_available() or not any(Path("/dev").glob("nvidia[0-9]*")):
        return ""
    if torch.version.cuda is None:
        return f"there is a GPU, but torch {torch.__version__} is built without CUDA: the CPU would train"
    return f"there is a GPU, but torch cannot use it with CUDA {torch.version.cuda}: the CPU would train"
