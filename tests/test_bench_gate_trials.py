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
    assert fit.above(1.0) == pytest.approx(0.5)
    assert fit.above(1.04) == pytest.approx((np.exp(noise) > 1.04).mean(), abs=0.01)


def test_a_slowed_function_takes_its_share_more(tmp_path: Path) -> None:
    source = "class Thing:\n    def work(self):\n        return sum(range(2_000_000))\n"
    (tmp_path / "thing.py").write_text(source)
    gate_trials.slow_down(tmp_path, Slowed(0.5, "thing.py", "Thing.work"))
    slow: dict[str, type] = {}
    plain: dict[str, type] = {}
    exec((tmp_path / "thing.py").read_text(), slow)
    exec(source, plain)

    def seconds(names: dict[str, type]) -> float:
        taken = []
        for _ in range(5):
            start = time.thread_time()
            assert names["Thing"]().work() == 1999999000000
            taken.append(time.thread_time() - start)
        return min(taken)

    assert 1.2 < seconds(slow) / seconds(plain) < 2.0


def test_what_is_slowed_is_there() -> None:
    files = {file.stem for file in gate.ROOT.glob("bench/cases/*.py")}
    for name, slowed in gate_trials.SLOWED.items():
        assert name in files
        (path,) = gate.ROOT.glob(f"packages/*/src/{slowed.file}")
        assert slowed.name.rpartition(".")[2] in path.read_text(encoding="utf-8")


def test_the_report_counts_alarms_and_what_was_found() -> None:
    common = {"benchmark": "train_step_tiny", "is_settled": True}
    same = [{**common, "kind": "same", "ratios": [ratio], "slower": False} for ratio in (0.99, 1.01)]
    busy = {**common, "kind": "same", "ratios": [1.5] * 6, "slower": False, "is_settled": False}
    slowed = [
        {**common, "kind": "slowed", "ratios": [1.3, 1.2, 1.1], "slower": True},
        {**common, "kind": "slowed", "ratios": [1.0], "slower": False},
    ]
    text = gate_trials.report([*same, busy, *slowed])
    assert "| train_step_tiny | 3 | 2 |" in text
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
        return gate.Verdict(file.stem, 1.0, (1.0,), (15,), True)

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
