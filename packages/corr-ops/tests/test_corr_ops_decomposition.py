"""The operator rewritten into PyTorch's own operators, and in ONNX."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import corr_ops
from corr_ops import Correlation, VideoCorrelation
from corr_ops.testing import Case, assert_within_budget, cases, make_frames, make_weight

OP = torch.ops.corr_ops.correlation.default
CASES = [case for case in cases() if case.num_clips > 0]
ALL_CASES = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    return program.run_decompositions(corr_ops.decompositions())


def namespaces(program: torch.export.ExportedProgram) -> set[str]:
    return {
        node.target.namespace
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }


@ALL_CASES
@pytest.mark.parametrize("lag", [0, 1, -1])
@pytest.mark.parametrize("weights", ["none", "one", "per_frame"])
def test_decomposition_equals_the_operator(case: Case, lag: int, weights: str) -> None:
    base, search = make_frames(case), make_frames(case, seed=5) if lag == 0 else None
    num_frames = {"none": None, "one": 1, "per_frame": case.num_frames}[weights]
    weight = None if num_frames is None else make_weight(case, num_frames=num_frames)
    arguments = (base, search, weight, case.kernel_size, case.dilation, case.groups, lag, "reference")
    out = corr_ops.decompositions()[OP](*arguments)
    torch.testing.assert_close(out, OP(*arguments), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = make_frames(Case(name="many-channels", channels=256), dtype=dtype)
    arguments = (x, None, None, [3, 3], [1, 1], 1, 1, "reference")
    out = corr_ops.decompositions()[OP](*arguments)
    assert out.dtype == dtype
    exact = OP(x.double(), *arguments[1:])
    assert_within_budget(out, exact=exact, low_precision=exact.to(dtype))


def modules() -> dict[str, tuple[nn.Module, int]]:
    """Return modules and the number of their inputs."""
    torch.manual_seed(0)
    video = VideoCorrelation(4, 3, kernel_size=3, groups=2)
    nn.init.normal_(video.weight)
    return {
        "video": (nn.Sequential(video, nn.Conv3d(18, 2, 1), nn.ReLU()), 1),
        "searched-current": (VideoCorrelation(4, 3, kernel_size=3, searched="current", filters="none"), 1),
        "pair": (Correlation(4, kernel_size=(3, 5), dilation=2, stride=2, padding="valid"), 2),
    }


MODULES = pytest.mark.parametrize("name", list(modules()))


def export(name: str) -> tuple[nn.Module, int, torch.export.ExportedProgram]:
    module, num_inputs = modules()[name]
    clips = tuple(torch.randn(2, 4, 3, 11, 13) for _ in range(num_inputs))
    sizes = ({0: torch.export.Dim("batch")},) * num_inputs
    return module, num_inputs, torch.export.export(module, clips, dynamic_shapes=sizes)


@pytest.mark.slow
@MODULES
def test_decomposed_program_holds_no_operator_of_ours(name: str) -> None:
    module, num_inputs, program = export(name)
    assert "corr_ops" in namespaces(program)
    rewritten = decomposed(program)
    assert namespaces(rewritten) == {"aten"}
    for num_clips in (1, 2, 5):
        clips = [torch.randn(num_clips, 4, 3, 11, 13) for _ in range(num_inputs)]
        torch.testing.assert_close(rewritten.module()(*clips), module(*clips))


@pytest.mark.slow
def test_decomposed_program_takes_other_frame_sizes() -> None:
    module = VideoCorrelation(4, 3, kernel_size=5, dilation=2)
    height, width = torch.export.Dim("height"), torch.export.Dim("width")
    example = (torch.randn(2, 4, 3, 11, 13),)
    program = torch.export.export(module, example, dynamic_shapes=({3: height, 4: width},))
    rewritten = decomposed(program).module()
    for size in [(11, 13), (2, 3), (20, 9)]:
        clips = torch.randn(2, 4, 3, *size)
        torch.testing.assert_close(rewritten(clips), module(clips))


def test_table_merges_with_that_of_pytorch() -> None:
    _, _, program = export("video")
    table = torch.export.default_decompositions()
    table.update(corr_ops.decompositions())
    assert namespaces(program.run_decompositions(table)) == {"aten"}


def test_each_call_returns_a_table_of_its_own() -> None:
    corr_ops.decompositions().clear()
    assert list(corr_ops.decompositions()) == [OP]


@pytest.mark.slow
def test_saved_program_runs_without_the_package(tmp_path: Path) -> None:
    module, _, program = export("video")
    clips = torch.randn(3, 4, 3, 11, 13)
    torch.export.save(decomposed(program), tmp_path / "program.pt2")
    torch.save((clips, module(clips).detach()), tmp_path / "example.pt")
    script = f"""
import sys, torch
program = torch.export.load({str(tmp_path / "program.pt2")!r})
clips, expected = torch.load({str(tmp_path / "example.pt")!r})
torch.testing.assert_close(program.module()(clips), expected)
assert "corr_ops" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video", "pair"])
def test_onnx_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, num_inputs, program = export(name)
    torch.onnx.export(decomposed(program)).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for num_clips in (1, 2, 5):
        clips = [torch.randn(num_clips, 4, 3, 11, 13) for _ in range(num_inputs)]
        fed = {port.name: clip.numpy() for port, clip in zip(session.get_inputs(), clips, strict=True)}
        out = torch.from_numpy(session.run(None, fed)[0])
        torch.testing.assert_close(out, module(*clips).detach())
