"""Implementations under test."""

import os
import sys

import pytest
import torch

from corr_ops import explain, ops

if not torch.cuda.is_available() and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

IMPLEMENTATIONS = ("cpu", "reference")


@pytest.fixture(params=IMPLEMENTATIONS)
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with every implementation as the one that "auto" takes."""
    if request.param == "cpu" and (reason := explain(torch.empty(0)).reasons.get("cpu")):
        pytest.skip(reason)
    monkeypatch.setattr(ops, "choose", lambda asked, device: request.param if asked == "auto" else asked)
    return request.param
