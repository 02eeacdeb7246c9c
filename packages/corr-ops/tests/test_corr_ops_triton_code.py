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

# The strides of a stage change addresses alone, so each target compiles one of them, and between them all.
STAGES = {"cuda-80": "res3", "cuda-90": "res2", "cuda-100": "res4", "hip-gfx942": "res2"}
TOLERANCE = 1.10


def count(*arguments: str) -> dict[str, dict]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(("target", "stage"), STAGES.items(), ids=STAGES)
def test_the_table_of_configurations_compiles_to_what_is_meant(target: str, stage: str) -> None:
    counts = count("--target", target, "--stage", stage)
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    same_compiler = counts.pop("triton") == recorded.pop("triton")
    assert len(counts) == 7
    for name, kernel in counts.items():
        by_matrices = "16" in name and "frames" not in name  # sums of products of 16-bit frames
        assert kernel["spilled_bytes"] == 0, name
        assert (kernel["matrix"] > 0) == by_matrices, name
        assert kernel.get("serialized_matrix", 0) == 0, name
        # The exact forward pass has one position in a lane: its loads are as wide as a warp.
        assert kernel["wide_loads"] > 0 or name.endswith("forward, float32"), name
        assert kernel["shared_bytes"] <= 64 << 10, name
        if same_compiler:
            assert kernel["slots"] <= TOLERANCE * recorded[name]["slots"], name


def test_what_is_not_aligned_costs_narrow_loads_as_the_launcher_assumes() -> None:
    name = "cuda-90, res2, forward, bfloat16"
    aligned = json.loads(RECORD.read_text(encoding="utf-8"))[name]
    unaligned = count(
        "--target", "cuda-90", "--stage", "res2", "--kernel", "forward, bfloat16", "--unaligned"
    )
    assert aligned["half_loads"] == 0
    assert unaligned[name]["half_loads"] > aligned["wide_loads"]
    assert unaligned[name]["slots"] > 1.5 * aligned["slots"]
