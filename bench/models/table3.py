"""Tables 3 and 6 of the paper, what models cost: parameters, multiply-accumulates, memory and clips a second.

python -m bench.models.table3                # measures, writes bench/results/table3.csv and prints it
python -m bench.models.table3 --rounds 9     # default 3
python -m bench.models.table3 --rounds 0     # measures nothing: prints what is on record

What was timed goes into the README of corrnet-models too.

All counts are exact: parameters, multiply-accumulates of a clip, and what its forward pass in training keeps for the
backward pass. Inference and training steps of all models of a size take turns, after R(2+1)D of that size, to which
ratios are. Models of torchvision are among them where it is installed, at their own frame size and at ours.
"""

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from bench import interleave, record
from bench.interleave import Contender
from bench.machine import describe_run
from bench.models.step_report import README
from bench.models.steps import training_step
from bench.tables import Row, find, measured_on, number, table, write_between_markers
from corrnet_models import count_parameters, create_model, list_models, model_info
from corrnet_train.networks.cost import activation_bytes, clip_gmacs
from video_data import ClipConfig

ROUNDS = 3
DIRECTIONS = ("inference", "training")
YARDSTICKS = {"full": "r2plus1d26", "tiny": "r2plus1d_tiny"}
TORCHVISION = {"r2plus1d_18": 112, "r3d_18": 112, "s3d": 224}  # sides of their frames
_COUNTED, _TIMED = (16, 32), 16  # frames of full-size clips
_SIDE = 224
_TINY_BATCH = 32
_SPEED = ("inference, clips/s", "training, clips/s", "GMACs to R(2+1)D", "inference", "training")


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: Of the model.
        size: `full` or `tiny`.
        make: Builds it.
        shape: [N, C, L, H, W] of the clips.
        paper_gmacs: What the paper prints for it; None where it prints nothing.
        is_timed: Whether its speed is measured, and not only its costs counted.
    """

    name: str
    size: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int, int, int]
    paper_gmacs: float | None
    is_timed: bool

    def count(self) -> Row:
        """Return the columns that are exact."""
        model = self.make()
        num_clips, channels, num_frames, side, _ = self.shape
        clip = (1, channels, num_frames, side, side)
        return {
            "model": self.name,
            "size": self.size,
            "batch": num_clips,
            "num_frames": num_frames,
            "resolution": side,
            "params": count_parameters(model),
            "gmacs": clip_gmacs(model, ClipConfig(num_frames=num_frames, crop_size=side)),
            "paper_gmacs": self.paper_gmacs,
            "activation_bytes": activation_bytes(model, clip),
        }


def models(names: Sequence[str] = ()) -> Iterator[Model]:
    """Yield the rows of registered models, all or those of the given names, and those of torchvision."""
    for name in names or list_models():
        info = model_info(name)
        tiny = info.resolution < _SIDE
        for num_frames in (info.config.num_frames,) if tiny else _COUNTED:
            yield Model(
                name,
                "tiny" if tiny else "full",
                partial(create_model, name, num_frames=num_frames),
                (_TINY_BATCH if tiny else 1, info.config.in_channels, num_frames, *(info.resolution,) * 2),
                info.paper_gmacs.get(num_frames),
                tiny or num_frames == _TIMED,
            )
    if not names and find_spec("torchvision"):
        zoo = importlib.import_module("torchvision.models.video")
        for name, own_side in TORCHVISION.items():
            for side in sorted({own_side, _SIDE}):
                shape = (1, 3, _TIMED, side, side)
                yield Model(f"torchvision {name}", "full", getattr(zoo, name), shape, None, True)


def contenders(model: Model) -> tuple[Contender, Contender]:
    """Return an inference and a training step of a model, on random clips that are drawn here.

    Raises:
        AssertionError: An output is not finite.
    """
    torch.manual_seed(0)
    network = model.make().eval()
    clips = torch.randn(model.shape).contiguous(
        memory_format=torch.channels_last_3d
    )  # as the loader gives them

    def infer() -> object:
        network.eval()
        with torch.inference_mode():
            return network(clips)

    out = infer()
    assert isinstance(out, torch.Tensor) and out.isfinite().all(), f"{model.name} puts out {out}"
    step = training_step(network, clips, out.shape[-1])

    def train() -> object:
        network.train()
        return step()

    return Contender("inference", infer), Contender("training", train)


def measure(asked: Sequence[Model], *, rounds: int) -> list[Row]:
    """Return the rows: counts of all models, times of those that are timed."""
    rows = [model.count() for model in asked]
    for size, yardstick in YARDSTICKS.items():
        timed = {
            place: contenders(model)
            for place, model in enumerate(asked)
            if model.size == size and model.is_timed
        }
        if not timed:
            continue
        everyone = [contender for pair in timed.values() for contender in pair]
        interleave.alternate(everyone, rounds=1)  # the first calls are slow
        for contender in everyone:
            contender.seconds.clear()
        interleave.alternate(everyone, rounds=rounds, clock=interleave.own_clock())
        base = next((pair for place, pair in timed.items() if asked[place].name == yardstick), None)
        for place, pair in timed.items():
            for direction, ours, other in zip(DIRECTIONS, pair, base or pair, strict=True):
                taken = interleave.row(ours, other)
                keys = ("ms20", "ms50", "ms80", *(("ratio20", "ratio50", "ratio80") if base else ()))
                rows[place] |= {"rounds": rounds, **{f"{direction} {key}": taken[key] for key in keys}}
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table for people."""
    header = ["model", "clip", "params, M", "GMACs", "in the paper", "activations, MB", *_SPEED]
    body = [
        [
            row["model"],
            f"{row['num_frames']} x {row['resolution']} x {row['resolution']}",
            number(row["params"] / 1e6, 4),
            number(row["gmacs"], 4),
            number(row.get("paper_gmacs"), 4),
            number(row["activation_bytes"] / 1e6, 4),
            *_speed(row, rows),
        ]
        for row in rows
    ]
    return f"{_about(rows[0])}\n\n{table(header, body, left=2)}"


def short(rows: list[Row]) -> str:
    """Return what a README has room for: memory and speed of what was timed."""
    header = ["model", "clip", "activations, MB", *_SPEED]
    body = [
        [
            row["model"],
            f"{row['num_frames']} x {row['resolution']} x {row['resolution']}",
            number(row["activation_bytes"] / 1e6, 4),
            *_speed(row, rows),
        ]
        for row in rows
        if "rounds" in row
    ]
    return f"{_about(rows[0])}\n\n{table(header, body, left=2)}"


def _about(row: Row) -> str:
    return (
        f"{measured_on(row)} Activations are what the forward pass of a clip keeps for the backward pass in "
        f"training with float32. Clips of {_SIDE} x {_SIDE} come one at a time, small ones {_TINY_BATCH} at once, and "
        f"only those of {_TIMED} frames and small ones were timed. The last two columns are times of a clip over those "
        "of R(2+1)D-26, or its tiny version, in the same round: beside the GMACs they say how much of what is counted "
        "is seen."
    )


def _speed(row: Row, rows: Sequence[Row]) -> list[str]:
    base = find(rows, model=YARDSTICKS[row["size"]], num_frames=row["num_frames"])
    return [
        *(_clips(row, direction) for direction in DIRECTIONS),
        number(row["gmacs"] / base["gmacs"] if base else None),
        *(number(row.get(f"{direction} ratio50")) for direction in DIRECTIONS),
    ]


def _clips(row: Row, direction: str) -> str:
    """Return clips a second."""
    return number(1e3 * row["batch"] / row[f"{direction} ms50"]) if f"{direction} ms50" in row else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    if rounds:
        run = describe_run()
        record.write("table3", [{**row, **run} for row in measure(list(models()), rounds=rounds)])
    found = record.read("table3")
    write_between_markers(README, "bench.models.table3", short(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
