"""What the GPU kernels compile to, ahead of time and without a GPU.

`tools/triton_code.py` counts, in a process of its own: this one runs kernels in Triton's interpreter. Its record, of
the Triton version that it names, is written anew with `--write` after a change that is meant.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
PACKAGE = Path(__file__).parents[1]
TOOL = PACKAGE / "tools" / "triton_code.py"
RECORD = Path(__file__).with_name("triton_code.json")
if not TOOL.exists():
    pytest.skip("the tool that compiles ahead of time is in the repository", allow_module_level=True)

# Products of matrices are compiled for every target. The exact kernels are the same for all NVIDIA GPUs, but for the
# assembler: each is compiled for one. The strides of a stage change addresses alone: between them all have each.
MATRICES = ("forward, bfloat16", "gradient of filters, bfloat16")
COMPILED = {
    "cuda-80, res3": (*MATRICES, "forward, float32"),
    "cuda-90, res2": (*MATRICES, "gradient of frames, float32", "gradient of frames, bfloat16"),
    "cuda-100, res4": (*MATRICES, "gradient of filters, float32"),
    "hip-gfx942, res2": (
        *MATRICES,
        "forward, float16",
        "forward, float32",
        "gradient of frames, float32",
        "gradient of filters, float32",
    ),
}
NAMES = [f"{place}, {kernel}" for place, kernels in COMPILED.items() for kernel in kernels]
FOR_LOADS = "cuda-90, res2, forward, bfloat16"
TOLERANCE = 1.10


@pytest.fixture(scope="module")
def counts() -> dict[str, dict]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, str(TOOL), *NAMES, f"{FOR_LOADS}, unaligned"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_the_table_of_configurations_compiles_to_what_is_meant(counts: dict, recorded: dict) -> None:
    for name in NAMES:
        kernel, without_target = counts[name], name.partition(", ")[2]
        by_matrices = "16" in without_target and "frames" not in name  # sums of products of 16-bit frames
        assert kernel["spilled_bytes"] == 0, name
        assert (kernel["matrix"] > 0) == by_matrices, name
        assert kernel.get("serialized_matrix", 0) == 0, name
        # The exact forward pass has one position in a lane: its loads are as wide as a warp.
        assert kernel["wide_loads"] > 0 or name.endswith("forward, float32"), name
        assert kernel["shared_bytes"] <= 64 << 10, name
        if counts["triton"] == recorded["triton"]:
            assert kernel["slots"] <= TOLERANCE * recorded[name]["slots"], name


def test_what_is_not_aligned_costs_narrow_loads_as_the_launcher_assumes(counts: dict, recorded: dict) -> None:
    aligned, unaligned = recorded[FOR_LOADS], counts[f"{FOR_LOADS}, unaligned"]
    assert aligned["half_loads"] == 0
    assert unaligned["half_loads"] > aligned["wide_loads"]
    assert unaligned["slots"] > 1.5 * aligned["slots"]
