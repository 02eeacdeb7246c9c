"""The model of the step: exact counts of modules that can be checked by hand, and agreement with other counts."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")
from bench.gpu import model, report
from bench.gpu.measure import read
from bench.gpu.model import Kernel, Trace

from corr_ops import VideoCorrelation
from corrnet_models import count_gmacs, create_model, model_info

FLOAT = 4  # bytes


def trace(layer: nn.Module, shape: tuple[int, ...], *, wants_input_grad: bool = True) -> Trace:
    """Run a layer forward and backward on real fp32 tensors."""
    x = torch.randn(shape, requires_grad=wants_input_grad)
    grad = torch.ones_like(layer(x))
    layer.zero_grad()
    x.grad = None
    with Trace() as found:
        layer(x).backward(grad)
    return found


def figures(kernels: list[Kernel]) -> list[tuple[str, str, float, int]]:
    return [(one.kind, one.direction, one.bytes / FLOAT, one.flops) for one in kernels]


def test_a_convolution_reads_input_and_weight_and_writes_its_output() -> None:
    x, y, weight = 2 * 8 * 4 * 6 * 6, 2 * 16 * 4 * 6 * 6, 16 * 8 * 1 * 3 * 3
    flops = 2 * y * 8 * 3 * 3
    layer = nn.Conv3d(8, 16, (1, 3, 3), padding=(0, 1, 1), bias=False)
    wanted = [
        ("convolution", "forward", x + weight + y, flops),
        ("convolution", "backward", y + weight + x, flops),
        ("convolution", "backward", y + x + weight, flops),
    ]
    found = trace(layer, (2, 8, 4, 6, 6))
    assert figures(found.eager()) == wanted
    assert figures(found.fused()) == wanted


def test_a_first_convolution_has_no_gradient_of_its_input() -> None:
    kernels = trace(nn.Conv3d(3, 4, 1, bias=False), (1, 3, 2, 4, 4), wants_input_grad=False).eager()
    assert [one.direction for one in kernels] == ["forward", "backward"]


def test_batch_norm_in_training_reads_its_input_twice() -> None:
    x, channels = 2 * 8 * 4 * 6 * 6, 8
    found = trace(nn.BatchNorm3d(channels), (2, 8, 4, 6, 6))
    assert [row for row in figures(found.eager()) if row[0] == "batch norm"] == [
        (
            "batch norm",
            "forward",
            x + 6 * channels,
            0,
        ),  # running statistics read and written, statistics written
        ("batch norm", "forward", 2 * x + 4 * channels, 0),
        ("batch norm", "backward", 2 * x + 4 * channels, 0),
        ("batch norm", "backward", 3 * x + 5 * channels, 0),
    ]


def test_the_operator_writes_the_gradient_of_frames_and_that_of_filters() -> None:
    x, y, weight = 2 * 8 * 4 * 5 * 5, 2 * 2 * 9 * 4 * 5 * 5, 4 * 8 * 3 * 3
    macs = x * 3 * 3
    layer = VideoCorrelation(8, 4, kernel_size=3, dilation=1, groups=2)
    assert figures(trace(layer, (2, 8, 4, 5, 5)).eager()) == [
        ("correlation", "forward", x + weight + y, 2 * macs),
        ("correlation", "backward", y + x + weight + x, 4 * macs),
        ("correlation", "backward", y + x + weight, 2 * macs),
    ]


class Residual(nn.Module):
    """A convolution, batch norm, the addition of the input and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(8, 8, 1, bias=False)
        self.bn = nn.BatchNorm3d(8)
        self.next = nn.Conv3d(8, 8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.next(torch.relu(self.bn(self.conv(x)) + x))
        return y


def test_what_is_elementwise_is_fused_where_it_is_read() -> None:
    shape = (4, 8, 8, 8, 8)
    size = math.prod(shape) * FLOAT
    found = trace(Residual(), shape)

    def sizes(kernels: list[Kernel]) -> list[tuple[str, str, int]]:
        """Kernels with how many tensors they move; what has but a few values is rounded away."""
        rows = [(one.layer, one.direction, round(one.bytes / size)) for one in kernels]
        return [row for row in rows if row[2]]

    assert sizes(found.eager()) == [
        ("conv", "forward", 2),
        ("bn", "forward", 1),
        ("bn", "forward", 2),
        ("", "forward", 3),  # addition
        ("", "forward", 2),  # ReLU
        ("next", "forward", 2),
        ("next", "backward", 2),
        ("next", "backward", 2),
        ("", "backward", 3),  # ReLU
        ("bn", "backward", 2),
        ("bn", "backward", 3),
        ("conv", "backward", 2),
        ("conv", "backward", 2),
        ("conv", "backward", 3),  # both gradients of the input
    ]
    assert sizes(found.fused()) == [
        ("conv", "forward", 2),
        ("bn", "forward", 1),
        ("", "forward", 3),  # reads what the convolution wrote and the input, writes what the next one reads
        ("next", "forward", 2),
        ("next", "backward", 2),
        ("next", "backward", 2),
        ("", "backward", 3),  # ReLU, with the sums of batch norm over what it stores ...
        ("bn", "backward", 1),  # ... which reads only batch norm's input
        ("bn", "backward", 3),
        ("conv", "backward", 2),
        ("conv", "backward", 2),
        ("conv", "backward", 3),
    ]


def test_a_backward_pass_belongs_to_the_layer_whose_gradient_it_takes() -> None:
    torch.manual_seed(0)
    network = create_model("corrnet_tiny")
    flops: dict[str, Counter[str]] = {"forward": Counter(), "backward": Counter()}
    for one in trace(network, (2, 3, 8, 32, 32), wants_input_grad=False).eager():
        flops[one.direction][one.layer] += one.flops
    layers = [layer for layer, count in flops["forward"].items() if count]
    assert len(layers) == len(
        [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.Linear | VideoCorrelation)]
    )
    for layer in layers:
        times = {
            "backbone.stem.conv": 1,
        }.get(layer, 3 if layer.endswith("correlation") else 2)
        assert flops["backward"][layer] == times * flops["forward"][layer], layer


@pytest.mark.slow
@pytest.mark.parametrize("name", model.NETWORKS)
def test_flops_of_the_forward_pass_are_twice_the_multiply_accumulates(name: str) -> None:
    config = model_info(name).config.replace(num_frames=model.NUM_FRAMES)
    kernels = model.trace_network(name, 1, training=False).eager()
    assert sum(one.flops for one in kernels) == round(2e9 * count_gmacs(config, resolution=model.RESOLUTION))


@pytest.mark.slow
def test_a_step_is_forward_backward_and_update_and_fusing_only_saves() -> None:
    step = model.trace_network("corrnet26", 1, training=True)
    inference = model.trace_network("corrnet26", 1, training=False)
    flops: Counter[str] = Counter()
    for one in step.eager():
        flops[one.direction] += one.flops
    assert flops["forward"] == sum(one.flops for one in inference.eager())
    (stem,) = [
        one.flops
        for one in step.eager()
        if one.layer == "backbone.stem.conv" and one.flops and one.direction == "backward"
    ]
    correlations = sum(one.flops for one in inference.eager() if one.kind == "correlation")
    assert (
        flops["backward"] == 2 * flops["forward"] - stem + correlations
    )  # a frame has two roles, filters are a third
    num_parameters = sum(
        parameter.numel() for parameter in create_model("corrnet26", num_frames=32).parameters()
    )
    (update,) = [one.bytes for one in step.eager() if one.direction == "update"]
    assert update == 5 * FLOAT * num_parameters
    assert {one.part for one in step.eager()} >= {
        "stem",
        "res2",
        "res2, correlation",
        "res5",
        "head and loss",
    }
    for passes in (step, inference):
        assert sum(one.bytes for one in passes.fused()) < sum(one.bytes for one in passes.eager())
        assert sum(one.flops for one in passes.fused()) == sum(one.flops for one in passes.eager())


def test_a_kernel_takes_what_bounds_it() -> None:
    rates = model.Rates(bytes=100, flops=1000)
    assert Kernel("", "", "", 300, 1000).seconds(rates) == 3
    assert Kernel("", "", "", 300, 5000).seconds(rates) == 5


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--layers"], "--network"), (["--rates", "nowhere"], "stage network writes it")]
)
def test_what_cannot_be_shown_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        model.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_shows_each_part_and_their_total(capsys: pytest.CaptureFixture[str]) -> None:
    model.main(["--network", "corrnet26", "--batch", "2"])
    tables = capsys.readouterr().out.split("\n\n")[1:]
    assert [one.split()[0] for one in tables] == ["forward", "backward", "inference"]
    for one in tables:
        rows = {line[:18].strip(): float(line.split()[-1]) for line in one.splitlines()[1:]}
        assert "res3, correlation" in rows
        assert rows.pop("all") == pytest.approx(sum(rows.values()), rel=0.01)


@pytest.mark.slow
def test_the_page_shows_modeled_beside_measured_and_the_readme_the_same() -> None:
    network = read(report.RECORD / "network.jsonl")
    peers = [row for row in read(report.RECORD / "tune.jsonl") if row["table"] == "peers"]
    page = (report.ROOT / "docs" / "gpu-first-run.md").read_text(encoding="utf-8")
    steps = report.steps(network)
    assert steps in page
    assert report.modeled_layers(network, peers) in page
    readme = (report.ROOT / "README.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in steps.splitlines() if line.startswith("|")]
    rows = {(row[0], row[1]): row[2:] for row in cells}
    training, inference = rows["corrnet26", "training"], rows["corrnet26", "inference"]
    assert f"| {training[-1]}, compiled {training[-2]}, of the model" in readme
    assert f"; {inference[-1].removesuffix(' %')} and {inference[-2]} of the same model" in readme
    first, *others, last = (rows[name, "training"][3] for name in ("r2d26", "corrnet50", "corrnet101"))
    assert f"{', '.join([first, *others])} and {last} ms" in readme


@pytest.mark.parametrize(
    ("measured", "said"), [(20.0, "met with 50 %"), (25.0, "not met with 40 %"), (None, "not measured")]
)
def test_the_goal_is_judged_by_modeled_over_measured(measured: float | None, said: str) -> None:
    assert report._judged(10.0, measured) == said
