"""Optimiser, learning-rate schedule (paper section 5: SGD, linear warm-up, cosine) and averaged weights."""

import math
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class OptimConfig(BaseModel):
    """How the weights are learned; lengths are in epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimiser")
    lr: PositiveFloat = Field(0.1, description="peak learning rate, for `lr_batch_size` clips a step")
    lr_batch_size: PositiveInt | None = Field(
        None, description="batch size that `lr` is meant for; none: lr is used as it is, for any batch_size"
    )
    lr_scaling: Literal["linear", "sqrt"] = Field(
        "linear", description="how lr grows with batch_size / lr_batch_size (linear: Goyal et al. 2017)"
    )
    layer_decay: float = Field(
        1,
        gt=0,
        le=1,
        description="factor of the learning rate from each stage to the one before it, for fine-tuning",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (SGD only)")
    weight_decay: float = Field(
        1e-4, ge=0, description="decay of convolution, correlation and linear weights"
    )
    batch_size: PositiveInt = Field(32, description="clips a step over all processes")
    epochs: PositiveFloat = Field(250, description="length of the training")
    samples_per_epoch: PositiveInt | None = Field(
        None, description="clips of an epoch; none: one pass over the training split"
    )
    warmup_epochs: float = Field(40, ge=0, description="linear warm-up, part of `epochs`")
    clip_grad_norm: PositiveFloat | None = Field(None, description="largest gradient norm; none: no clipping")
    ema_decay: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of the average of the weights that is evaluated, 0.9999 is usual; 0: none",
    )

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"optim.warmup_epochs={self.warmup_epochs:g} is a part of optim.epochs={self.epochs:g} and cannot be "
                "more: the learning rate would never reach its peak"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """Peak learning rate for `batch_size`."""
        ratio = 1.0 if self.lr_batch_size is None else self.batch_size / self.lr_batch_size
        return self.lr * (ratio if self.lr_scaling == "linear" else math.sqrt(ratio))

    def epoch_samples(self, num_samples: int) -> int:
        """Clips of an epoch on `num_samples` training videos."""
        return self.samples_per_epoch or num_samples

    def num_steps(self, num_samples: int) -> int:
        """Steps of the whole training on `num_samples` training videos."""
        return math.ceil(self.epochs * self.epoch_samples(num_samples) / self.batch_size)

    def num_warmup_steps(self, num_samples: int) -> int:
        """Steps of the linear warm-up on `num_samples` training videos."""
        return round(self.warmup_epochs * self.epoch_samples(num_samples) / self.batch_size)


def learning_rate(step: int, *, peak: float, num_steps: int, num_warmup_steps: int) -> float:
    """Learning rate of 0-based `step`: linear up to `peak`, then half a cosine down to zero.

    The rate is a pure function of the step, so resuming a run needs no schedule state.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` over the parameters of `model`; norm scales and biases are not decayed.

    Args:
        model: a model of corrnet-models, or any module when `layer_decay` is 1.
        config: the settings.
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
    """A copy of a model that `update_parameters` keeps at the exponential moving average of its weights.

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
