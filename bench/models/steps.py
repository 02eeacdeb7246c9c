"""A step of training, as it is timed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def training_step(model: nn.Module, clips: Tensor, num_classes: int) -> Callable[[], object]:
    """Return a function that takes one step on the same clips: forward, backward and update.

    Args:
        model: Becomes one in training mode.
        clips: [N, C, L, H, W].
        num_classes: Of the labels, which are random.
    """
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.randint(num_classes, (len(clips),))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(clips), labels).backward()
        optimizer.step()

    return step
