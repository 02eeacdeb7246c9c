"""Compiles the GPU kernels ahead of time, without a GPU, and counts what the machine code has.

    python packages/corr-ops/tools/triton_code.py            # prints the counts
    python packages/corr-ops/tools/triton_code.py --write    # and records them for the tests

Each kernel is compiled as the launcher would for a CorrNet of 32 frames (stage res2; the stages differ in sizes that
are not compiled in), for every target of the table of configurations.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corr_ops.impl.triton import launch

RECORD = Path(__file__).parents[1] / "tests" / "triton_code.json"
TARGETS = {"cuda-80": 80, "cuda-90": 90, "cuda-100": 100, "hip-gfx942": "gfx942"}
KERNELS = {
    "forward, bfloat16": torch.bfloat16,
    "forward, float16": torch.float16,
    "forward, float32": torch.float32,
    "gradient of frames, bfloat16": torch.bfloat16,
    "gradient of frames, float32": torch.float32,
    "gradient of filters, bfloat16": torch.bfloat16,
    "gradient of filters, float32": torch.float32,
}
SHAPE, GROUPS, TAPS = (1, 64, 32, 56, 56), 2, 7
_TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.float64: "*fp64"}


def plan(kernel: str, target: str) -> launch.Launch:
    """Return the launch of a kernel, on tensors without data."""
    dtype = KERNELS[kernel]
    call = launch.Call((TAPS, TAPS), (2, 2), GROUPS, 1, target)
    exact_forward = kernel == "forward, float32"

    def frames(channels: int) -> Tensor:
        x = torch.empty(SHAPE[0], channels, *SHAPE[2:], dtype=dtype, device="meta")
        return x if exact_forward else launch.channels_last(x)

    x, matches = frames(SHAPE[1]), frames(GROUPS * TAPS * TAPS)
    weight = torch.empty(SHAPE[2], SHAPE[1], TAPS, TAPS, dtype=dtype, device="meta")
    if kernel.startswith("forward"):
        make = launch.forward_exact if exact_forward else launch.forward_dot
        return make(call, x, x, weight, matches)
    if kernel.startswith("gradient of frames"):
        return launch.grad_frames(call, matches, x, x, weight, x, as_base=True, as_searched=True)
    return launch.grad_filters(call, matches, x, x, dot=dtype == torch.bfloat16)


def compile_ahead(planned: launch.Launch, target: str, *, aligned: bool = True) -> Any:
    """Compile a launch for a target as the launcher does at run time."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from corr_ops.impl.triton import kernels

    function = getattr(kernels, planned.kernel)
    constants = dict(planned.constants)
    if "SUM" in constants:
        constants["SUM"] = tl.float64 if constants["SUM"] == torch.float64 else tl.float32
    signature, attributes = {}, {}
    for position, name in enumerate(function.arg_names):
        value = planned.arguments.get(name)
        if name in constants or (value == 1 if isinstance(value, int) else False):
            signature[name] = "constexpr"
            constants.setdefault(name, value)
            continue
        is_tensor = isinstance(value, Tensor)
        signature[name] = _TYPES[value.dtype] if is_tensor else "i32"
        if aligned and (is_tensor or value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    vendor, architecture = target.split("-")
    gpu = GPUTarget("cuda", int(architecture), 32) if vendor == "cuda" else GPUTarget("hip", architecture, 64)
    source = ASTSource(function, signature, constants, attributes)
    return triton.compile(source, target=gpu, options={"num_warps": planned.num_warps})


def count(kernel: str, target: str) -> dict[str, Any]:
    """Compile a kernel and count its registers, spills and instructions."""
    planned = plan(kernel, target)
    compiled = compile_ahead(planned, target)
    if target.startswith("hip"):
        return _count_amd(compiled.asm["amdgcn"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _run("nvdisasm", "-c", file.name)
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert numbers, usage
    lines = _loop(code)
    size = planned.constants
    products = size["LANES"] * size["STRIP"] * TAPS * size.get("CHANNELS", 1)
    return {
        "registers": int(numbers[1]),
        "spilled_bytes": int(numbers[2]) + int(numbers[4]),
        "shared_bytes": compiled.metadata.shared,
        "slots_per_mac": round(len(lines) * 32 * planned.num_warps / products, 3),
        "matrix": _with(code, "HMMA", "HGMMA", "UTCHMMA", "IMMA"),
        "serialised_matrix": _with(code, "HGMMA", "WARPGROUP"),
        "wide_loads": _with(code, r"LDG\.E\.128", r"LDG\.E\.64", r"LDG\.E\.[A-Z.]*128"),
        "half_loads": _with(code, r"LDG\.E\.U16"),
    }


def _count_amd(code: str) -> dict[str, Any]:
    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", code)
        assert found, key
        return int(found[1])

    return {
        "registers": number("vgpr_count"),
        "spilled_bytes": number("vgpr_spill_count") * 4 + number("private_segment_fixed_size"),
        "shared_bytes": number("group_segment_fixed_size"),
        "matrix": _with(code, "v_mfma"),
        "wide_loads": _with(code, "global_load_dwordx4", "global_load_dwordx2", "buffer_load_dwordx4"),
    }


def _loop(code: str) -> list[str]:
    """Return the instructions of the longest loop: from a label to the last branch back to it."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    longest: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(instructions)
        elif "/*" in line and ";" in line:
            instructions.append(line)
            branch = re.search(r"\bBRA\b.*(\.L_x_\d+)", line)
            start = labels.get(branch[1]) if branch else None
            if (
                start is not None
                and start < len(instructions) - 1
                and len(instructions) - start > len(longest)
            ):
                longest = instructions[start:]
    return longest


def _with(code: str, *patterns: str) -> int:
    return sum(bool(re.search("|".join(patterns), line)) for line in code.splitlines())


def _run(program: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / program
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def count_all() -> dict[str, dict[str, Any]]:
    """Return the counts of every kernel for every target, as `<kernel>, <target>`."""
    jobs = [(kernel, target) for kernel in KERNELS for target in TARGETS]
    with ProcessPoolExecutor() as pool:
        results = pool.map(count, *zip(*jobs, strict=True))
        return {f"{kernel}, {target}": found for (kernel, target), found in zip(jobs, results, strict=True)}


def main() -> None:
    """Count, print, and record where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"record the counts in {RECORD.name}")
    write = parser.parse_args().write
    text = json.dumps(count_all(), indent=1)
    if write:
        RECORD.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
