"""What a check finds: on one process, and over all of them."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["ok", "skipped", "warning", "failed"]
SEVERITY: tuple[Status, ...] = ("ok", "skipped", "warning", "failed")
_MOST_RANKS = 8  # named in a result


class Finding(BaseModel):
    """What one check has found, on one process or over all of them.

    Attributes:
        status: `ok`, `skipped` (could not be looked at), `warning` (works, but not well) or `failed`.
        result: What was found, in a line.
        advice: What to do about it; empty when nothing is to be done.
        figures: What was measured or read, as plain values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status = "ok"
    result: str
    advice: str = ""
    figures: dict[str, Any] = Field(default_factory=dict)


class CheckResult(BaseModel):
    """What a check has found over all processes.

    Attributes:
        name: Name of the check.
        seconds: How long it took on this process.
        summary: The finding that stands for all.
        ranks: That of each process; None where it did not answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seconds: float
    summary: Finding
    ranks: tuple[Finding | None, ...]

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.summary.status == "failed"


def failed(result: str, advice: str = "", **figures: Any) -> Finding:
    """Make a finding that something is wrong."""
    return Finding(status="failed", result=result, advice=advice, figures=figures)


def worst(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """Return the finding that stands for all: the worst one, with the ranks that have it where others are better.

    Args:
        findings: One of each process.
        names: How messages call the processes.
    """
    status = max((finding.status for finding in findings), key=SEVERITY.index)
    bad = [(name, f) for name, f in zip(names, findings, strict=True) if f.status == status]
    first = bad[0][1]
    if len(bad) == len(findings) and len({f.result for _, f in bad}) == 1:
        return first
    if status == "ok":
        return first
    lines = [f"{name}: {f.result}" for name, f in bad[:_MOST_RANKS]]
    if len(bad) > _MOST_RANKS:
        lines.append(f"and {len(bad) - _MOST_RANKS} more")
    advices = list(dict.fromkeys(f.advice for _, f in bad if f.advice))
    return Finding(status=status, result="\n".join(lines), advice="\n".join(advices), figures=first.figures)


def differences(findings: Sequence[Finding], names: Sequence[str], key: str) -> str:
    """Which processes have another value of a figure than the first one; empty when none has."""
    values = [finding.figures.get(key) for finding in findings]
    other = next((i for i, value in enumerate(values) if value != values[0]), None)
    if other is None:
        return ""
    return f"{key} differs: {names[0]} has {values[0]}, {names[other]} has {values[other]}"
