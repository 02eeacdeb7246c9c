"""Implementations under test."""

import pytest

from corr_ops import ops

IMPLEMENTATIONS = ("cpu", "reference")


@pytest.fixture(params=IMPLEMENTATIONS)
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with every implementation as the one that "auto" takes."""
    if request.param == "cpu" and (reason := ops.cpu.unavailable()):
        pytest.skip(reason)
    monkeypatch.setattr(ops, "choose", lambda asked, device: request.param if asked == "auto" else asked)
    return request.param
