import copy
import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from corrnet_models import create_model
from corrnet_train.config import schema
from corrnet_train.config.schema import TrainConfig
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.training.step import StepResult, StepValues, TrainStep, prepare_model
from video_data import normalize

CPU = torch.device("cpu")


def batches(*, num_batches, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for number in range(num_batches):
        video = torch.randint(256, (size, 3, 4, 16, 16), dtype=torch.uint8, generator=generator)
        label = torch.randint(4, (size,), generator=generator)
        yield DeviceBatch(video, label, [f"{number}-{row}" for row in range(size)])


class Net(nn.Module):
    """A network without batch norm, so that micro-batches do not see each other."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean(dim=(2, 3, 4)))


def trained(model, config=None, *, steps=2, data, **options):
    model = prepare_model(copy.deepcopy(model), config or TrainConfig())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = TrainStep(model, optimizer, device=CPU, **options)
    values = [step(data, step=number, rate=0.1).values() for number in range(steps)]
    return model, values


@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulated_micro_batches_learn_what_the_whole_batch_does(clip):
    torch.manual_seed(0)
    model = Net()
    small = list(batches(num_batches=8, size=2))
    large = [
        DeviceBatch(
            torch.cat([b.video for b in small[i : i + 4]]), torch.cat([b.label for b in small[i : i + 4]]), []
        )
        for i in (0, 4)
    ]
    one, values_one = trained(model, data=iter(large), clip_grad_norm=clip)
    four, values_four = trained(model, data=iter(small), clip_grad_norm=clip, num_micro_batches=4)
    for ours, theirs in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(values_one, values_four, strict=True):
        assert ours.tally == theirs.tally
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("num_micro_batches", [1, 4])
def test_an_update_is_the_gradient_shortened_to_the_limit(precision, num_micro_batches):
    """Of SGD with a rate of 1 and no momentum; in fp16 it is the gradient of the loss, not of the scaled loss."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    step = TrainStep(
        model, optimizer, device=CPU, precision=precision, num_micro_batches=num_micro_batches, clip_grad_norm=0.05
    )  # fmt: skip
    if precision == "fp16":  # the usual first scale overflows here
        step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = copy.deepcopy(model)
    values = step(batches(num_batches=4, size=2), step=0, rate=1.0).values()
    losses = [
        nn.functional.cross_entropy(before(normalize(batch.video)), batch.label)
        for batch in itertools.islice(batches(num_batches=4, size=2), num_micro_batches)
    ]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses), before.parameters())])
    gradient /= num_micro_batches
    vector = nn.utils.parameters_to_vector
    update = vector(before.parameters()) - vector(model.parameters())
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    assert gradient.norm() > 0.1
    assert values.grad_norm == pytest.approx(gradient.norm().item(), rel=tolerance)
    assert update.norm().item() == pytest.approx(0.05, rel=tolerance)
    torch.testing.assert_close(update, 0.05 * gradient / gradient.norm(), rtol=0, atol=tolerance * 0.05)


def test_a_step_goes_through_its_micro_batches_and_updates_once():
    torch.manual_seed(0)
    model, seen = Net(), []
    before = copy.deepcopy(model)

    def synchronize(last):
        seen.append(last)
        return nullcontext()

    step = TrainStep(
        model.eval(),  # as an evaluation leaves it
        torch.optim.SGD(model.parameters(), lr=3),
        device=CPU,
        num_micro_batches=3,
        after_update=lambda: seen.append("updated"),
        reduce=lambda figures: figures.add_(torch.tensor([0.7, 5, 0])),  # of the other process
        world_size=2,
        synchronize=synchronize,
    )
    taken = list(batches(num_batches=3, size=2))
    result = step(iter(taken), step=7, rate=0.5, stop=True)
    values = result.values()
    assert model.training and seen == [False, False, True, "updated"]
    assert (result.step, result.rate, result.keys) == (7, 0.5, [batch.keys for batch in taken])
    logits = torch.stack([before(normalize(batch.video)) for batch in taken])
    label = torch.stack([batch.label for batch in taken])
    losses = [nn.functional.cross_entropy(*pair) for pair in zip(logits, label, strict=True)]
    torch.testing.assert_close(result.micro_losses, torch.stack(losses).detach())
    assert values.loss == pytest.approx(sum(losses).item() / 3 / 2 + 0.7)
    assert values.tally == (logits.argmax(2) == label).sum() + 5
    assert values.stop
    for ours, theirs in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.5 * ours.grad)


def test_the_scale_of_the_loss_grows_with_steps_that_do_not_overflow():
    torch.manual_seed(0)
    model = Net()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), device=CPU, precision="fp16")
    step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for number, batch in enumerate(batches(num_batches=4, size=2)):
        step(iter([batch]), step=number, rate=0.1)
    assert step.scaler.get_scale() == 32.0


def test_warming_up_changes_nothing():
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_frames=4, num_classes=4, dropout=0.5)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), device=CPU)
    step.warm_up(torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_recomputed_blocks_learn_the_same():
    torch.manual_seed(0)
    model, calls = create_model("corrnet_tiny", num_frames=4, num_classes=4), []
    model.get_submodule("backbone.res3.block1.spatial").register_forward_hook(lambda *_: calls.append(1))
    plain, values = trained(model, data=batches(num_batches=2, size=2))
    assert len(calls) == 2
    recomputed, others = trained(
        model, TrainConfig(grad_checkpointing=True), data=batches(num_batches=2, size=2)
    )
    assert len(calls) == 2 + 4 and values == others
    for ours, theirs in zip(plain.state_dict().values(), recomputed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_memory_format_of_weights_does_not_change_their_values():
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_frames=4, num_classes=4)
    last = prepare_model(copy.deepcopy(model), TrainConfig(channels_last=True))
    convolutions = [p for p in last.parameters() if p.ndim == 5]
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in convolutions)
    for ours, theirs in zip(model.state_dict().values(), last.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_fp16_skips_a_step_whose_scaled_gradients_overflow():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, optimizer, device=CPU, precision="fp16")
    before = copy.deepcopy(model.state_dict())
    step.scaler.scale(torch.ones(()))  # makes the scale's tensor
    scale = step.scaler.get_scale()
    step.scaler.update(1e38)
    data = batches(num_batches=2, size=2)
    values = step(data, step=0, rate=0.1).values()
    assert values.loss < 10 and not torch.isfinite(torch.tensor(values.grad_norm))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    step.scaler.update(scale)
    step(data, step=1, rate=0.1)
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("micro_batch", "batch_size", "world_size", "expected"),
    [(None, 32, 1, (32, 1)), (None, 32, 4, (8, 1)), (4, 32, 2, (4, 4)), (8, 8, 1, (8, 1))],
)
def test_the_global_batch_is_split_evenly(micro_batch, batch_size, world_size, expected):
    config = TrainConfig(micro_batch=micro_batch)
    assert config.accumulation(batch_size, world_size=world_size) == expected


@pytest.mark.parametrize(
    ("micro_batch", "batch_size", "world_size", "message"),
    [
        (None, 10, 4, "batch_size=10 cannot be shared equally by 4 processes: give a multiple of 4, like 8"),
        (3, 32, 2, r"batch_size=32 is no multiple of train.micro_batch=3 x 2 processes = 6: .*like 30"),
    ],
)
def test_a_batch_that_cannot_be_split_is_an_error(micro_batch, batch_size, world_size, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(micro_batch=micro_batch).accumulation(batch_size, world_size=world_size)


def test_labels_that_were_mixed_go_to_the_loss_and_accuracy_keeps_the_labels():
    seen = []

    def prepare(video, label):
        return normalize(video), nn.functional.one_hot(label, 4).float()

    def loss(logits, target):
        seen.append(target.shape)
        return nn.functional.cross_entropy(logits, target)

    torch.manual_seed(0)
    model = Net()
    plain, values = trained(model, data=batches(num_batches=2, size=2))
    mixed, others = trained(model, data=batches(num_batches=2, size=2), prepare=prepare, loss=loss)
    assert seen == [(2, 4), (2, 4)]
    assert [v.tally for v in values] == [v.tally for v in others]
    torch.testing.assert_close(plain.state_dict(), mixed.state_dict())


@pytest.mark.parametrize(
    ("settings", "device", "mode"),
    [
        ({}, "cuda", "default"), ({}, "cpu", None), ({"parallel": "fsdp"}, "cuda", None),
        ({"batch_norm": "sync"}, "cuda", None), ({"compile": True}, "cpu", "default"),
        ({"compile": False}, "cuda", None),
        ({"compile": "max-autotune-no-cudagraphs"}, "cuda", "max-autotune-no-cudagraphs"),
    ],
)  # fmt: skip
def test_models_are_compiled_on_gpus_unless_told_otherwise(settings, device, mode, monkeypatch):
    monkeypatch.setattr(schema, "has_triton", lambda: True)
    assert TrainConfig(**settings).compile_mode(device) == mode


def test_models_are_not_compiled_without_triton(monkeypatch):
    monkeypatch.setattr(schema, "has_triton", lambda: False)
    assert TrainConfig().compile_mode("cuda") is None


def test_figures_on_a_gpu_are_copied_without_waiting_and_waited_for_when_they_are_read(monkeypatch):
    done = []

    class Event:
        def record(self):
            done.append("recorded")

        def synchronize(self):
            done.append("waited")

    class OnGpu:
        device = torch.device("cuda")

        def to(self, device, *, non_blocking):
            done.append((device, non_blocking))
            return torch.tensor([0.5, 3.0, 1.0, 2.0])

    monkeypatch.setattr(torch.cuda, "Event", Event)
    losses = torch.tensor([0.5])
    result = StepResult.start_reading(OnGpu(), step=7, rate=0.1, micro_losses=losses, keys=[["a"]])
    assert done == [("cpu", True), "recorded"]
    assert (result.step, result.rate, result.micro_losses, result.keys) == (7, 0.1, losses, [["a"]])
    assert result.values() == StepValues(loss=0.5, tally=3, stop=True, grad_norm=2.0)
    assert done[2:] == ["waited"]


@pytest.mark.parametrize("stop", [{}, {"stop": True}, {"stop": False}])
def test_a_step_tells_whether_it_was_asked_to_stop(stop):
    model = prepare_model(Net(), TrainConfig())
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), device=CPU)
    values = step(batches(num_batches=1, size=2), step=0, rate=0.1, **stop).values()
    assert values.stop is stop.get("stop", False)
