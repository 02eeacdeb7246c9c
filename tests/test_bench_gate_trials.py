"""What the trials of the gate say: the fitted distribution, slowed installations, and the table."""

import time
from pathlib import Path

import numpy as np
import pytest
from bench import gate, gate_trials
from bench.gate_trials import Fit, Slowed


@pytest.mark.parametrize("freedom", [3.0, 100.0])
def test_the_fit_finds_what_the_ratios_came_from(freedom: float) -> None:
    noise = np.random.default_rng(0).standard_t(freedom, 4000) * 0.02
    fit = Fit.of(np.exp(noise).tolist())
    assert fit.scale == pytest.approx(0.02, rel=0.1)
    assert (fit.freedom > 5) == (freedom > 5)


def test_a_slowed_function_takes_its_share_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a test can trust: asking it takes a hundredth, the work ten."""
    now = 0.0

    def spend(seconds: float) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr(time, "thread_time", lambda: spend(0.01))
    source = "class Thing:\n    def work(self):\n        spend(10)\n        return 'done'\n"
    (tmp_path / "thing.py").write_text(source)
    gate_trials.slow_down(tmp_path, Slowed(0.5, "thing.py", "Thing.work"))
    names: dict[str, object] = {"spend": spend}
    exec((tmp_path / "thing.py").read_text(), names)
    assert names["Thing"]().work() == "done"  # type: ignore[operator]
    assert now == pytest.approx(15, abs=0.1)


def test_what_is_slowed_is_there() -> None:
    files = {file.stem for file in gate.ROOT.glob("bench/cases/*.py")}
    for name, slowed in gate_trials.SLOWED.items():
        assert name in files
        (path,) = gate.ROOT.glob(f"packages/*/src/{slowed.file}")
        assert slowed.name.rpartition(".")[2] in path.read_text(encoding="utf-8")


def test_more_noise_raises_more_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_trials, "JUDGMENTS", 2000)
    alarms = [Fit(scale, 100.0).alarms(error=0.015) for scale in (0.01, 0.05, 0.2)]
    assert alarms == sorted(alarms)
    assert alarms[0] == 0 and 0 < alarms[1] < 0.02 < alarms[2] < 0.2


def test_the_report_counts_alarms_and_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_trials, "JUDGMENTS", 2000)

    def line(kind: str, slower: bool | None, *ratios: float) -> dict[str, object]:
        estimates = [[ratio, 0.015 / count**0.5] for count, ratio in enumerate(ratios, 1)]
        return {"benchmark": "train_step_tiny", "kind": kind, "estimates": estimates, "slower": slower}

    same = [line("same", False, ratio) for ratio in (0.99, 1.01)]
    busy = line("same", None, *[1.04] * gate.MOST_LOOKS)
    slowed = [line("slowed", True, 1.3, 1.2, 1.1), line("slowed", False, 1.0)]
    text = gate_trials.report([*same, busy, *slowed])
    assert "| train_step_tiny | 3 | 1 |" in text
    assert "| 0 | 10% | 1.050 | 1 of 2 |" in text
    assert "raise a false alarm" in text
    assert (
        len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    )  # a head for each column


def test_trials_go_on_where_they_were_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def judge(file: Path, ours: Path, theirs: Path) -> gate.Verdict:
        judged.append(file.stem)
        if len(judged) == 2:
            raise KeyboardInterrupt
        return gate.Verdict(file.stem, 1.0, (gate.Estimate(1.0, 0.01),), (15,), False)

    class Here:
        def __enter__(self) -> Path:
            return tmp_path / "installation"

        def __exit__(self, *_: object) -> None:
            pass

    (tmp_path / "installation").mkdir()
    monkeypatch.setattr(gate, "judge", judge)
    monkeypatch.setattr(gate_trials, "installation_of", lambda *_, **__: Here())
    monkeypatch.setattr(gate_trials, "slow_down", lambda *_: None)
    monkeypatch.setattr(gate_trials, "git", lambda *_: "c" * 40)
    with pytest.raises(KeyboardInterrupt):
        gate_trials.run(tmp_path / "trials.jsonl", 1)
    gate_trials.run(tmp_path / "trials.jsonl", 1)
    lines = gate_trials.read(tmp_path / "trials.jsonl")
    assert len({(line["kind"], line["benchmark"]) for line in lines}) == len(lines) == len(judged) - 1
