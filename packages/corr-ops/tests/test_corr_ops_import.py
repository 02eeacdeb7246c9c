"""What an import costs and needs."""

import subprocess
import sys
from importlib.metadata import version

import torch

import corr_ops


def run(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_import_loads_nothing_optional() -> None:
    run(
        """
import sys, torch
before = set(sys.modules)
import corr_ops
new = {name for name in set(sys.modules) - before if not name.startswith("corr_ops")}
optional = {"triton", "fvcore", "numpy", "torch._dynamo", "torch._inductor", "torch.utils.flop_counter"}
assert not new & optional, sorted(new & optional)
"""
    )


def test_works_where_triton_and_fvcore_cannot_be_imported() -> None:
    run(
        """
import sys
sys.modules.update(dict.fromkeys(["triton", "fvcore"]))
import torch, corr_ops
x = torch.ones(1, 4, 2, 3, 3, requires_grad=True)
corr_ops.video_correlation(x, kernel_size=3).sum().backward()
assert x.grad.abs().sum() > 0
assert list(corr_ops.fvcore_handles()) == ["corr_ops::correlation"]
"""
    )


def test_version_is_that_of_the_distribution() -> None:
    assert version("corr-ops") == corr_ops.__version__


def test_everything_public_has_a_docstring() -> None:
    assert corr_ops.__doc__
    for name in corr_ops.__all__:
        assert getattr(corr_ops, name).__doc__, name


def test_explain_names_the_implementation_and_the_reason() -> None:
    x = torch.ones(1, 4, 2, 3, 3)
    assert "float32 on cpu" in corr_ops.explain(x)
    assert corr_ops.explain(x, backend="reference").startswith("reference: ")
    assert "asked for by name" in corr_ops.explain(x, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "bfloat16 on cpu" in corr_ops.explain(x)
    on_meta = corr_ops.explain(x.to("meta"))
    assert on_meta.startswith("reference: ")
    assert "triton does not: it serves GPUs alone, not meta" in on_meta
    assert "cpu does not: it serves the CPU alone, not meta" in on_meta
