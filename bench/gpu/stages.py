"""Measurements on a GPU, in stages that each fit into ten minutes.

    python -m bench.gpu.stages probe --out rows             # what instructions and requests cost; needs nvcc
    python -m bench.gpu.stages kernels --out rows           # each kernel of the operator: right, and how fast
    python -m bench.gpu.stages tune --out rows              # launch configurations; convolutions beside the operator
    python -m bench.gpu.stages network --out rows           # where the time of a network goes
    python -m bench.gpu.stages trainer --out rows           # the trainer: right, resumable, what it waits for

A stage writes <out>/<stage>.jsonl, a row at a time, and stops in time. `docs/gpu-first-run.md` says what each row
decides. With --tiny a stage takes sizes that say nothing, to see that it runs; on a CPU the kernels of the operator
then run in Triton's interpreter (TRITON_INTERPRET=1).
"""

import argparse
from pathlib import Path

import torch

from bench.gpu.measure import Rows
from corrnet_train.utils.kernels import chosen_kernels

SECONDS = {"probe": 60, "kernels": 240, "tune": 420, "network": 420, "trainer": 400}


def main(arguments: list[str] | None = None) -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", choices=SECONDS)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="folder of the rows (default: runs/gpu)"
    )
    parser.add_argument("--seconds", type=float, help=f"time of the stage (default: {SECONDS})")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to see that it runs")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not chosen.tiny:
        parser.exit(2, "no GPU: torch sees none, so there is nothing to measure; --tiny runs a stage dry\n")
    torch.manual_seed(0)
    rows = Rows(chosen.out / f"{chosen.stage}.jsonl", device, seconds=chosen.seconds or SECONDS[chosen.stage])
    folder = chosen.out.resolve()
    with chosen_kernels(deterministic=False):  # as the trainer
        if chosen.stage == "probe":
            from bench.gpu import probe

            probe.run(rows, device)
        elif chosen.stage == "kernels":
            from bench.gpu import kernels

            kernels.run(rows, device, tiny=chosen.tiny)
        elif chosen.stage == "tune":
            from bench.gpu import tune

            tune.run(rows, device, folder, tiny=chosen.tiny)
        elif chosen.stage == "network":
            from bench.gpu import network

            network.run(rows, device, tiny=chosen.tiny)
        else:
            from bench.gpu import trainer

            trainer.run(rows, device, folder / "trainer", tiny=chosen.tiny)
    rows.add("end", stage=chosen.stage, seconds=rows.elapsed)


if __name__ == "__main__":
    main()
