import itertools

import pytest
import torch
from torch import nn

from corrnet_train.optim import OptimConfig, build_optimizer, learning_rate


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
    moved = [bool((a != b).any()) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [True, False, False, False]
