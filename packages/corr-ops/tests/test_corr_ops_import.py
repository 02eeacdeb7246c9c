"""What an import costs and needs."""

import subprocess
import sys
from importlib.metadata import version
from typing import get_args

import pytest
import torch

import corr_ops
from corr_ops._backends import IMPLEMENTATIONS, Backend
from corr_ops.impl.cpu import library


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


X = torch.ones(1, 4, 2, 3, 3)
NO_LIBRARY = "its compiled library is not part of this installation"


def test_explain_of_a_call_that_the_reference_serves_by_name() -> None:
    explanation = corr_ops.explain(X, backend="reference")
    assert not explanation
    assert explanation.backend == "reference"
    assert str(explanation) == (
        "reference: plain tensor operations for every device and floating-point dtype; asked for by name "
        "(float32 on cpu)."
    )
    assert explanation.reasons == corr_ops.explain(X).reasons


def test_explain_of_a_call_that_no_kernel_can_serve() -> None:
    explanation = corr_ops.explain(X.to("meta"))
    assert not explanation
    assert explanation.backend == "reference"
    assert explanation.reasons == {
        "triton": "it serves GPUs alone, not meta",
        "cpu": "it serves the CPU alone, not meta",
    }
    assert str(explanation) == (
        "reference: plain tensor operations for every device and floating-point dtype; triton does not: it serves "
        "GPUs alone, not meta; cpu does not: it serves the CPU alone, not meta; the next that does "
        "(float32 on meta)."
    )


@pytest.mark.parametrize("reason", [None, NO_LIBRARY])
def test_explain_on_the_cpu_with_and_without_kernels(
    reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "unavailable", lambda: reason)
    explanation = corr_ops.explain(X)
    assert bool(explanation) == (reason is None)
    assert explanation.backend == ("cpu" if reason is None else "reference")
    missing = {} if reason is None else {"cpu": reason}
    assert explanation.reasons == {"triton": "it serves GPUs alone, not cpu", **missing}
    assert str(explanation).startswith(f"{explanation.backend}: ")
    assert ("cpu does not" in str(explanation)) == (reason is not None)


def test_explain_says_in_which_dtype_a_call_runs() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "bfloat16 on cpu" in str(corr_ops.explain(X))


def test_every_implementation_can_be_asked_for() -> None:
    assert get_args(Backend) == ("auto", *IMPLEMENTATIONS)
