"""The optimizer, the learning rate of a step (paper section 5: SGD, linear warm-up, cosine) and averaged weights."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from corrnet_train.config.schema import OptimConfig


def learning_rate(step: int, *, peak: float, num_steps: int, num_warmup_steps: int) -> float:
    """Learning rate of 0-based `step`: linear up to `peak`, then half a cosine down to zero.

    The rate is a pure function of the step, so resuming a run needs no schedule state.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimizer of `config` over the parameters of `model`; norm scales and biases are not decayed.

    Args:
        model: A model of corrnet-models, or any module when `layer_decay` is 1.
        config: The settings.
    """
    layers = _layers(model) if config.layer_decay < 1 else [list(model.parameters())]
    groups: list[dict[str, Any]] = []
    for distance, layer in enumerate(layers):
        trained = [parameter for parameter in layer if parameter.requires_grad]
        factor = config.layer_decay**distance
        for parameters, decay in (
            ([p for p in trained if p.ndim >= 2], config.weight_decay),
            ([p for p in trained if p.ndim < 2], 0.0),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "lr_factor": factor})
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.peak_lr)


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a model that `update_parameters` keeps at the exponential moving average of its weights.

    Buffers are copied as they are.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters by their distance from the output: the classifier, res5, ..., res2, the stem."""
    backbones = model.backbones().values()  # type: ignore[operator]
    names = [name for name, _ in next(iter(backbones)).named_children()]
    layers = [
        [p for backbone in backbones for p in backbone.get_submodule(name).parameters()] for name in names
    ]
    inside = {id(parameter) for layer in layers for parameter in layer}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [head, *reversed(layers)]
