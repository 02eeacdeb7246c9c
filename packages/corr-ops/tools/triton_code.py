"""Compiles the GPU kernels ahead of time, without a GPU, and counts what the machine code has.

    python packages/corr-ops/tools/triton_code.py                     # prints the counts
    python packages/corr-ops/tools/triton_code.py "cuda-90, *"        # of one target
    python packages/corr-ops/tools/triton_code.py --write             # and records them for the tests

Each kernel is compiled as the launcher would for the three stages of CorrNet-26 that have the operator (224x224 pixels,
32 frames), for every target. Spills are counted over the whole kernel, instructions in its longest loop. "slots" are
issued instructions for each multiply-accumulate and lane. For NVIDIA GPUs, with four schedulers on a multiprocessor:
`memory_slots` is the time of its load/store unit (128 bytes a cycle) and `matrix_slots` that of the tensor cores (6.5
cycles for each m16n8k16, a recalled figure) in the same unit. The largest of the three limits the kernel.
"""

import argparse
import fnmatch
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corr_ops.impl.triton import compiled_constants, launch

RECORD = Path(__file__).parents[1] / "tests" / "triton_code.json"
TARGETS = ("cuda-80", "cuda-90", "cuda-100", "hip-gfx942")
KERNELS = {
    "forward, bfloat16": torch.bfloat16,
    "forward, float16": torch.float16,
    "forward, float32": torch.float32,
    "gradient of frames, bfloat16": torch.bfloat16,
    "gradient of frames, float32": torch.float32,
    "gradient of filters, bfloat16": torch.bfloat16,
    "gradient of filters, float32": torch.float32,
}
# Stage -> shape [C, L, H, W] of a clip and groups.
STAGES = {
    "res2": ((64, 32, 56, 56), 2),
    "res3": ((128, 32, 28, 28), 4),
    "res4": ((256, 16, 14, 14), 8),
}
TAPS, DILATION = 7, 2
UNALIGNED = ", unaligned"
_TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
_MATRIX_CYCLES = 6.5


def plan(kernel: str, stage: str, target: str, *, device: str = "meta", num_clips: int = 1) -> launch.Launch:
    """Return the launch of a kernel, on tensors without data or, on a device, of any data."""
    dtype = KERNELS[kernel]
    clip, groups = STAGES[stage]
    shape = (num_clips, *clip)
    call = launch.Call((TAPS, TAPS), (DILATION, DILATION), groups, 1, target)
    exact_forward = kernel == "forward, float32"

    def frames(channels: int) -> Tensor:
        x = torch.empty(shape[0], channels, *shape[2:], dtype=dtype, device=device)
        return x if exact_forward else launch.channels_last(x)

    x, matches = frames(shape[1]), frames(groups * TAPS * TAPS)
    weight = torch.empty(shape[2], shape[1], TAPS, TAPS, dtype=dtype, device=device)
    if kernel.startswith("forward"):
        make = launch.forward_exact if exact_forward else launch.forward_dot
        return make(call, x, x, weight, matches)
    if kernel.startswith("gradient of frames"):
        return launch.grad_frames(call, matches, x, x, weight, x, as_base=True, as_searched=True)
    return launch.grad_filters(call, matches, x, x, dot=dtype == torch.bfloat16)


def compile_ahead(planned: launch.Launch, target: str, *, aligned: bool = True) -> Any:
    """Compile a launch for a target as the launcher does at run time.

    Args:
        planned: The launch.
        target: One of `TARGETS`.
        aligned: Whether pointers and strides that are multiples of 16 count as such.

    Returns:
        What Triton compiled.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from corr_ops.impl.triton import kernels

    function = getattr(kernels, planned.kernel)
    constants = compiled_constants(planned)
    signature, attributes = {}, {}
    for position, name in enumerate(function.arg_names):
        value = planned.arguments.get(name)
        if name in constants or (isinstance(value, int) and value == 1):
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


def count(kernel: str, stage: str, target: str, *, aligned: bool = True) -> dict[str, Any]:
    """Compile a kernel and count registers, spilled bytes, instructions and slots."""
    planned = plan(kernel, stage, target)
    compiled = compile_ahead(planned, target, aligned=aligned)
    constants = planned.constants
    products = constants["LANES"] * constants["STRIP"] * TAPS * constants.get("CHANNELS", 1)
    if target.startswith("hip"):
        return _count_amd(compiled.asm["amdgcn"], products / (64 * planned.num_warps))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _run("nvdisasm", "-c", file.name)
    return _count_nvidia(usage, code, compiled.metadata.shared, products / (32 * planned.num_warps))


def _count_nvidia(usage: str, code: str, shared_bytes: int, macs: float) -> dict[str, Any]:
    """Count in the disassembly of a kernel whose loop has `macs` multiply-accumulates for each lane."""
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert numbers, usage
    is_instruction = re.compile(r"/\*[0-9a-f]+\*/\s.*;")
    loop = _longest_loop(
        code, re.compile(r"(\.L_x_\d+):"), is_instruction, re.compile(r"\bBRA\b.*(\.L_x_\d+)")
    )
    return {
        "registers": int(numbers[1]),
        "spilled_bytes": int(numbers[2]) + int(numbers[4]),
        "shared_bytes": shared_bytes,
        "slots": round(len(loop) / macs, 3),
        "memory_slots": round(4 * sum(map(_memory_cycles, loop)) / macs, 3),
        "matrix_slots": round(_MATRIX_CYCLES * _with(loop, "HMMA") / macs, 3),
        "matrix": _with(code.splitlines(), "HMMA", "HGMMA", "UTC.?MMA", "IMMA", "DMMA"),
        "serialized_matrix": _with(code.splitlines(), "HGMMA", "WARPGROUP", "UTC.?MMA"),
        "wide_loads": _with(code.splitlines(), r"LDG\.E[A-Z.]*\.(64|128)\b"),
        "half_loads": _with(code.splitlines(), r"LDG\.E[A-Z.]*\.U16\b"),
    }


def _memory_cycles(line: str) -> int:
    """Return the cycles for which an instruction of a warp keeps the load/store unit."""
    if not re.search(r"\b(LDG|STG|LDS|STS|LDSM|STSM|LDL|STL)\b", line):
        return 0
    if matrix := re.search(r"(LDSM|STSM)\S*\.(\d)\b", line):
        return int(matrix[2])
    width = re.search(r"\.(64|128)\b", line)
    return int(width[1]) // 32 if width else 1


def _count_amd(code: str, macs: float) -> dict[str, Any]:
    """Count in the assembly of a kernel whose loop has `macs` multiply-accumulates for each lane."""

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", code)
        assert found, key
        return int(found[1])

    is_instruction, label = re.compile(r"^\s+[a-z]\w+"), re.compile(r"^(\.L\w+):")
    loop = _longest_loop(code, label, is_instruction, re.compile(r"s_c?branch\w*\s+(\.L\w+)"))
    return {
        "registers": number("vgpr_count"),
        "spilled_bytes": number("vgpr_spill_count") * 4 + number("private_segment_fixed_size"),
        "shared_bytes": number("group_segment_fixed_size"),
        "slots": round(len(loop) / macs, 3),
        "matrix": _with(code.splitlines(), "v_mfma"),
        "wide_loads": _with(code.splitlines(), r"(global|buffer)_load_dwordx[24]"),
    }


def _longest_loop(
    code: str, label: re.Pattern[str], is_instruction: re.Pattern[str], branch: re.Pattern[str]
) -> list[str]:
    """Return the instructions of the longest loop without a loop inside: from a label to the branch back to it.

    Where one pass is all that there is to do, the compiler leaves no loop: then all instructions count.
    """
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[tuple[int, int]] = []
    for line in code.splitlines():
        if found := label.match(line.strip()):
            labels[found[1]] = len(instructions)
        elif is_instruction.search(line):
            instructions.append(line)
            target = branch.search(line)
            start = labels.get(target[1]) if target else None
            if start is not None and start < len(instructions) - 1:
                loops.append((start, len(instructions)))
    inner = [
        (start, end)
        for start, end in loops
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in loops)
    ]
    start, end = max(inner, key=lambda loop: loop[1] - loop[0], default=(0, len(instructions)))
    return instructions[start:end]


def _with(lines: Iterable[str], *patterns: str) -> int:
    return sum(bool(re.search("|".join(patterns), line)) for line in lines)


def _run(program: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / program
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def count_all(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the counts of kernels by their names, `<target>, <stage>, <kernel>`.

    A name that ends in ", unaligned" is of a kernel for which no pointer or stride is known to be aligned.
    """
    names = list(names)
    with ProcessPoolExecutor() as pool:
        return dict(zip(names, pool.map(_count_named, names), strict=True))


def _count_named(name: str) -> dict[str, Any]:
    aligned = name.removesuffix(UNALIGNED)
    target, stage, kernel = aligned.split(", ", 2)
    return count(kernel, stage, target, aligned=aligned == name)


def main() -> None:
    """Count, print, and record where asked."""
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "names",
        nargs="*",
        help="patterns of `<target>, <stage>, <kernel>`, which choose some; with `, unaligned` after it\n"
        "as if no pointer or stride were aligned",
    )
    parser.add_argument("--write", action="store_true", help=f"record the counts in {RECORD.name}")
    given = parser.parse_args()
    if given.write and given.names:
        parser.error("--write records everything; give it alone")
    aligned = [
        f"{target}, {stage}, {kernel}"
        for kernel, stage, target in itertools.product(KERNELS, STAGES, TARGETS)
    ]
    chosen = []
    for pattern in given.names or ["*"]:
        known = [name + UNALIGNED for name in aligned] if pattern.endswith(UNALIGNED) else aligned
        found = fnmatch.filter(known, pattern)
        if not found:
            parser.error(
                f"no kernel is called {pattern!r}; allowed are patterns of, for example, {known[0]!r}"
            )
        chosen += found
    counts: dict[str, Any] = {"triton": triton.__version__} | count_all(dict.fromkeys(chosen))
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in counts.items())
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if given.write:
        RECORD.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
