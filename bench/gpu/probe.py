"""Stage `probe`: what instructions and requests to the L1 cache cost, in cycles, by the program `probe.cu`."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.gpu.measure import Rows

SOURCE = Path(__file__).with_suffix(".cu")


def run(rows: Rows, device: torch.device) -> None:
    """Build the program with nvcc and add its rows; without a GPU it is built for Hopper and not run."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        rows.add("build", skipped="no nvcc on PATH: install the CUDA toolkit, or add its bin folder to PATH")
        return
    is_gpu = device.type == "cuda"
    major, minor = torch.cuda.get_device_capability(device) if is_gpu else (9, 0)
    target = f"sm_{major}{minor}"
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "probe")
        command = [nvcc, "-O3", "-std=c++17", f"-arch={target}", str(SOURCE), "-o", program]
        if _runs(rows, "build", command, target=target) and is_gpu:
            _runs(rows, "run", [program])


def _runs(rows: Rows, table: str, command: list[str], **columns: Any) -> bool:
    """Run a command, add the rows that it prints and one for itself; return whether it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        rows.add(**json.loads(line))
    failed = {"error": done.stderr[-300:]} if done.returncode else {}
    rows.add(table, **columns, rc=done.returncode, **failed)
    return done.returncode == 0
