"""How often the gate errs: it judges installations that are the same, and those that were slowed on purpose.

python -m bench.gate_trials FILE --trials 20    # adds a line for each judgment to FILE; goes on where it was stopped
python -m bench.gate_trials FILE --report       # prints what the file says, as docs/decisions/bench-gate.md has it

A trial is those benchmarks of SLOWED with an installation that was slowed, then all with two of the same. Few trials
see no false alarm: their rate comes from the gate's rule over looks that are drawn from a distribution, which is fitted
to the ratios of first looks.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch.distributions import StudentT

from bench import gate
from bench.history import benchmarks
from bench.tables import table
from bench.trees import ROOT, git, installation_of


@dataclass(frozen=True)
class Slowed:
    """A function of the packages that takes longer by a share of its time.

    Attributes:
        share: By what it is slower.
        file: Where it is, in an installation.
        name: What is slowed there.
    """

    share: float
    file: str
    name: str


JUDGMENTS = 100_000  # that are drawn
SLOWED = {
    "ops_forward_res2": Slowed(0.15, "corr_ops/__init__.py", "video_correlation"),
    "data_loader_clips": Slowed(0.10, "video_data/loading/train.py", "_TrainDataset.__getitem__"),
    "train_step_tiny": Slowed(0.10, "corrnet_train/training/step.py", "TrainStep.__call__"),
}
_CODE = """


def _slowed(call):
    import functools
    import time

    @functools.wraps(call)
    def slow(*args, **kwargs):
        start = time.thread_time()
        result = call(*args, **kwargs)
        end = start + (time.thread_time() - start) * (1 + {share})
        while time.thread_time() < end:
            pass
        return result

    return slow


{name} = _slowed({name})
"""


def slow_down(installation: Path, slowed: Slowed) -> None:
    """Slow a function of an installation, in place."""
    path = installation / slowed.file
    code = _CODE.format(share=slowed.share, name=slowed.name)
    path.write_text(path.read_text(encoding="utf-8") + code, encoding="utf-8")


def run(file: Path, trials: int) -> None:
    """Judge until the file has so many lines for each benchmark and kind."""
    commit = git("rev-parse", "HEAD")
    with installation_of(ROOT, compiled=gate.built()) as same, tempfile.TemporaryDirectory() as folder:
        slowed = {name: shutil.copytree(same, Path(folder, name)) for name in SLOWED}
        for name, where in slowed.items():
            slow_down(where, SLOWED[name])
        jobs = [("slowed", case, slowed[case.stem]) for case in benchmarks() if case.stem in slowed]
        jobs += [("same", case, same) for case in benchmarks()]
        for trial in range(trials):
            for kind, case, ours in jobs:
                done = [line for line in read(file) if (line["kind"], line["benchmark"]) == (kind, case.stem)]
                if len(done) > trial:
                    continue
                verdict = gate.judge(case, ours, same)
                line = {"kind": kind, "commit": commit, **vars(verdict)}
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(line) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none where there is no file."""
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


@dataclass(frozen=True)
class Fit:
    """Student's t distribution of the logarithms of ratios, around 0: the two processes are alike.

    Attributes:
        scale: Its scale.
        freedom: Degrees of freedom; few of them are heavy tails.
    """

    scale: float
    freedom: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Fit":
        """Fit it to ratios by maximum likelihood."""
        values = torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)
        middle = max(values.abs().median().item(), 1e-4)
        grid = [
            cls(middle * factor, freedom)
            for factor in np.geomspace(0.3, 5, 80).tolist()
            for freedom in (1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
        ]
        return max(grid, key=lambda fit: fit._distribution().log_prob(values).sum().item())

    def alarms(self, error: float) -> float:
        """Return the share of judgments that call the same code slower, where looks have this standard error."""
        rng = np.random.default_rng(0)
        looks = self.scale * rng.standard_t(self.freedom, (JUDGMENTS, gate.MOST_LOOKS))
        return float(np.mean([_is_alarm(judgment, error) for judgment in looks.tolist()]))

    def _distribution(self) -> StudentT:
        return StudentT(self.freedom, loc=0.0, scale=self.scale)


def _is_alarm(looks: Sequence[float], error: float) -> bool:
    """Return whether looks, in logarithms, end as slower."""
    for number in range(1, len(looks) + 1):
        seen = looks[:number]
        estimate = gate.Estimate(math.exp(fmean(seen)), error / math.sqrt(number), gate.standard_error(seen))
        if (slower := gate.is_slower(estimate, number)) is not None:
            return slower
    return False


def report(lines: Sequence[dict[str, Any]]) -> str:
    """Return what trials found: the noise, the rate of false alarms, what of the slowdowns was found."""
    rows, quiet = [], 1.0
    for name in sorted({line["benchmark"] for line in lines}):
        same = [line for line in lines if (line["kind"], line["benchmark"]) == ("same", name)]
        slowed = [line for line in lines if (line["kind"], line["benchmark"]) == ("slowed", name)]
        cells = [name, str(len(same)), str(sum(line["slower"] is None for line in same))]
        if same:
            fit = Fit.of([line["estimates"][0][0] for line in same])
            alarm = fit.alarms(median(line["estimates"][0][1] for line in same))
            quiet *= 1 - alarm
            cells += [f"{100 * fit.scale:.1f} %, {fit.freedom:g}", f"{100 * alarm:.2g} %"]
            cells += [str(sum(line["slower"] is True for line in same))]
        else:
            cells += [""] * 3
        if slowed:
            found = sum(line["slower"] is True for line in slowed)
            ratio = median(line["estimates"][-1][0] for line in slowed)
            cells += [f"{SLOWED[name].share:.0%}", f"{ratio:.3f}", f"{found} of {len(slowed)}"]
        else:
            cells += [""] * 3
        rows.append(cells)
    header = ["benchmark", "judged", "no telling", "scale, freedom", "false alarms, fitted", "seen"]
    header += ["slowed by", "median ratio", "found"]
    return f"{table(header, rows)}\n\nOf 100,000 gates {1e5 * (1 - quiet):.3g} raise a false alarm."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="lines of JSON")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="judge nothing")
    options = parser.parse_args()
    if not options.report:
        run(options.file, options.trials)
    if not (lines := read(options.file)):
        sys.exit(f"error: there are no trials in {options.file}")
    print(report(lines))


if __name__ == "__main__":
    main()
