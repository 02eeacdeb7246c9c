"""Optimiser and learning-rate schedule (paper section 5: SGD, linear warm-up, cosine)."""

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import nn


class OptimConfig(BaseModel):
    """How the weights are learned; lengths are in epochs (passes over the training split)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimiser")
    lr: PositiveFloat = Field(0.1, description="peak learning rate for `batch_size`; it is not rescaled")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (SGD only)")
    weight_decay: float = Field(
        1e-4, ge=0, description="decay of convolution, correlation and linear weights"
    )
    batch_size: PositiveInt = Field(32, description="clips a step")
    epochs: PositiveFloat = Field(250, description="passes over the training split")
    warmup_epochs: float = Field(40, ge=0, description="linear warm-up, part of `epochs`")
    clip_grad_norm: PositiveFloat | None = Field(None, description="largest gradient norm; none: no clipping")

    def num_steps(self, num_samples: int) -> int:
        """Steps of the whole training on `num_samples` training videos."""
        return math.ceil(self.epochs * num_samples / self.batch_size)

    def num_warmup_steps(self, num_samples: int) -> int:
        """Steps of the linear warm-up on `num_samples` training videos."""
        return round(self.warmup_epochs * num_samples / self.batch_size)


def learning_rate(step: int, *, peak: float, num_steps: int, num_warmup_steps: int) -> float:
    """Learning rate of 0-based `step`: linear up to `peak`, then half a cosine down to zero.

    The rate is a pure function of the step, so resuming a run needs no schedule state.
    """
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` over the parameters of `model`; norm scales and biases are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)
