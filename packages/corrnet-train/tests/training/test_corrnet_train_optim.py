import copy
import itertools

import pytest
import torch
from torch import nn

from corrnet_models import create_model
from corrnet_train.config.schema import OptimConfig
from corrnet_train.training.optim import (
    AveragedModel,
    build_optimizer,
    learning_rate,
    load_optimizer,
    set_learning_rate,
)


def rates(num_steps, num_warmup_steps):
    return [
        learning_rate(step, peak=0.4, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
        for step in range(num_steps)
    ]


def test_the_rate_rises_linearly_then_falls_as_a_cosine():
    values = rates(14, 4)
    assert values[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert values[4] == pytest.approx(0.4)
    assert values[9] == pytest.approx(0.2)  # half of the cosine
    assert all(a > b for a, b in itertools.pairwise(values[4:]))
    assert learning_rate(14, peak=0.4, num_steps=14, num_warmup_steps=4) == pytest.approx(0, abs=1e-12)


def test_no_warm_up_starts_at_the_peak():
    assert rates(5, 0)[0] == pytest.approx(0.4)


def test_lengths_follow_from_the_number_of_samples():
    config = OptimConfig(epochs=2.5, warmup_epochs=0.5, batch_size=32)
    assert config.num_steps(100) == 8  # 250 / 32, rounded up: no sample of the last epoch is left out
    assert config.num_warmup_steps(100) == 2


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_weights_are_decayed(name):
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.5))
    decayed, plain = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [5]
    assert [p.ndim for p in plain["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = [p.clone() for p in model.parameters()]
    optimizer.step()
    kept = [1 - 0.5 * optimizer.defaults["lr"], 1, 1, 1]  # without a gradient, decay alone moves weights
    for share, old, new in zip(kept, before, model.parameters(), strict=True):
        torch.testing.assert_close(new, share * old)


def test_sgd_has_momentum():
    """Of two equal gradients the second moves the weights by 1 + momentum times as much."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(model, OptimConfig(name="sgd", lr=0.5, momentum=0.9, weight_decay=0))
    path = [model.weight.item()]
    for _ in range(2):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        path.append(model.weight.item())
    assert [path[0] - path[1], path[1] - path[2]] == pytest.approx([0.5, 0.5 * 1.9])


def test_the_rate_grows_with_the_batch_as_it_is_told_to():
    assert OptimConfig(lr=0.1, batch_size=256).peak_lr == 0.1
    assert OptimConfig(lr=0.1, batch_size=256, lr_batch_size=64).peak_lr == pytest.approx(0.4)
    assert OptimConfig(lr=0.1, batch_size=256, lr_batch_size=64, lr_scaling="sqrt").peak_lr == pytest.approx(
        0.2
    )


def test_an_epoch_may_be_a_fixed_number_of_samples():
    config = OptimConfig(epochs=10, warmup_epochs=1, batch_size=5, samples_per_epoch=20)
    assert (config.num_steps(1_000_000), config.num_warmup_steps(1_000_000)) == (40, 4)


@pytest.mark.parametrize("name", ["corrnet_tiny", "r2plus1d_tiny_twostream"])
def test_the_rate_falls_from_the_classifier_to_the_stem(name):
    model = create_model(name)
    optimizer = build_optimizer(model, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for path, parameter in model.named_parameters():
        stage = next((s for s in ("stem", "res2", "res3", "res4", "res5") if f"{s}." in path), "head")
        distance = ["head", "res5", "res4", "res3", "res2", "stem"].index(stage)
        assert rates[id(parameter)] == 0.5**distance, path


def test_statistics_are_averaged_like_the_weights_and_counters_copied():
    """A hand-made average: decays of 0, 1/10 and 2/11, as they warm up."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    averaged = AveragedModel(model, 0.75)
    for value in (4.0, 8.0, 0.0):
        nn.init.constant_(model[0].weight, value)
        model[1].running_mean.fill_(value)
        model[1].running_var.fill_(2 * value)
        model[1].num_batches_tracked.add_(1)
        averaged.update()
    expected = 2 / 11 * (0.1 * 4 + 0.9 * 8)
    assert averaged.module[0].weight.item() == pytest.approx(expected)
    assert averaged.module[1].running_mean.item() == pytest.approx(expected)
    assert averaged.module[1].running_var.item() == pytest.approx(2 * expected)
    assert averaged.module[1].num_batches_tracked.item() == 3


@pytest.mark.parametrize("num_updates", [10, 60, 1000])
def test_the_average_of_a_short_run_is_of_its_last_tenth(num_updates):
    """The usual decay of 0.9999 alone would leave more than nine tenths of 1000 steps to the first weights."""
    model = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, 0.9999)
    for step in range(num_updates):
        nn.init.constant_(model.weight, step)
        averaged.update()
    assert averaged.module.weight.item() == pytest.approx(0.9 * num_updates, abs=1)
    assert averaged.num_steps == pytest.approx(num_updates / 9 + 1, abs=0.5)


def test_the_decay_ends_at_what_was_asked_for():
    model = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, 0.75)
    for _ in range(100):
        averaged.update()
    assert (averaged.decay, averaged.num_steps) == (0.75, 4)


def test_averaged_weights_go_on_from_their_state():
    """The first update of a fresh average takes the weights as they are; one that was loaded goes on."""
    model = nn.Linear(1, 1, bias=False)
    averaged, loaded = AveragedModel(model, 0.75), AveragedModel(model, 0.75)
    for value in (4.0, 8.0):
        nn.init.constant_(model.weight, value)
        averaged.update()
        loaded.load_state_dict(averaged.state_dict())
        averaged = loaded
    assert averaged.num_updates == 2
    assert averaged.module.weight.item() == pytest.approx(0.1 * 4 + 0.9 * 8)


def stepped(optimizer, model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("flags", [{"fused": None, "foreach": True}, {"fused": True, "foreach": None}])
def test_the_state_of_another_device_and_memory_format_goes_on(name, flags):
    """A run of shards has foreach and contiguous state, one on a GPU has fused updates."""
    torch.manual_seed(0)
    one, other = (nn.Conv3d(3, 4, 3) for _ in range(2))
    other.load_state_dict(one.state_dict())
    other.to(memory_format=torch.channels_last_3d)
    config = OptimConfig(name=name, lr=0.1)
    kept, loaded = build_optimizer(one, config), build_optimizer(other, config)
    stepped(kept, one, 0)
    stepped(loaded, other, 0)
    state = copy.deepcopy(kept.state_dict())
    for group in state["param_groups"]:
        group |= flags
    load_optimizer(loaded, state)
    assert [(group["fused"], group["foreach"]) for group in loaded.param_groups] == [(True, None)] * 2
    stepped(kept, one, 1)
    stepped(loaded, other, 1)
    for ours, theirs in zip(other.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_skipped_first_step_leaves_no_trace(goes_on):
    """In fp16 most runs begin with one; torch's fused SGD would take unset memory for the momentum after it.

    So it is where a run goes on from a checkpoint of shards, whose optimizer has no momentum before its first step.
    """
    torch.manual_seed(0)
    model, straight = (nn.Linear(50, 50) for _ in range(2))
    straight.load_state_dict(model.state_dict())
    optimizer, other = (build_optimizer(net, OptimConfig(lr=0.1)) for net in (model, straight))
    if goes_on:
        load_optimizer(optimizer, {**optimizer.state_dict(), "state": {}})
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), None  # as GradScaler sets them
    unset = torch.full((50, 50), 1e20)
    del unset  # whoever takes memory as it is gets this
    stepped(optimizer, model, 0)
    optimizer.found_inf = torch.zeros(())
    stepped(optimizer, model, 1)
    stepped(other, straight, 1)
    for ours, theirs in zip(model.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)
