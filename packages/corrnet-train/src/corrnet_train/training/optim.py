"""The optimizer, the learning rate of a step (paper section 5: SGD, linear warm-up, cosine) and averaged weights."""

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from corrnet_models import VideoModel
from corrnet_train.config.schema import OptimConfig
from corrnet_train.distributed.parallelize import has_shards, place_optimizer_state, placed_state


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
        model: The model.
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
    # One kernel for the whole update; shards have none (those of SGD, and of AdamW with a scaled loss).
    fused = None if any(map(has_shards, model.parameters())) else True
    if config.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, fused=fused)
        _start_momentum(optimizer)
        return optimizer
    return torch.optim.AdamW(groups, lr=config.peak_lr, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of whole tensors, also one from another device, of shards or of another memory format.

    How updates are computed stays as it is. Fused ones go through the memory of weights and state alike, so that the
    state gets the memory format of the weights.
    """
    groups = [
        {**loaded, "foreach": own["foreach"], "fused": own["fused"]}
        for loaded, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(place_optimizer_state({**state, "param_groups": groups}, optimizer))
    _start_momentum(optimizer)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape and not has_shards(value):
                values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start the momentum of fused SGD at zero: where fp16 skips the first step, torch would leave it unset memory."""
    for group in optimizer.param_groups:
        if group["fused"] and group.get("momentum"):
            for parameter in group["params"]:
                zeros = torch.zeros_like(parameter, requires_grad=False)
                optimizer.state[parameter].setdefault("momentum_buffer", zeros)


class AveragedModel:
    """A copy of a model at the exponential moving average of its weights, and of batch norm's statistics with them.

    The statistics are averaged as timm does it (`ModelEmaV3`), because those of the present weights do not fit averaged
    ones; counters are copied. The decay warms up as in TensorFlow's `ExponentialMovingAverage` with `num_updates`: the
    average of a run reaches back over about a tenth of its steps until that is as far as the decay goes, so that it
    never holds much of the weights that the run began with. An update is a few calls of PyTorch on a GPU, for which the
    host does not wait.

    Args:
        model: The model whose weights are averaged.
        decay: Share of the average that an update keeps once the warm-up is over.

    Attributes:
        module: The copy. Until the first update it may be split among processes or moved, as `model` is.
        num_updates: Updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self.num_updates = 0
        self._model = model
        self._full_decay = decay
        self._pairs: _Pairs | None = None

    @property
    def decay(self) -> float:
        """Share of the average that the next update keeps; the first one takes the weights as they are."""
        return min(self._full_decay, self.num_updates / (9 + self.num_updates))

    @property
    def num_steps(self) -> int:
        """Steps over which the average reaches back, about: one over the share that an update gets."""
        return round(1 / (1 - self.decay))

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights of the model into the average."""
        if self._pairs is None:  # optimizers rely on it, too, that a model keeps its tensors
            self._pairs = _alike(_tensors(self.module), _tensors(self._model))
        for averages, present in self._pairs:
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, present, 1 - self.decay)
            else:
                torch._foreach_copy_(averages, present)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the average, with names that begin with `module.`, and the number of updates."""
        weights = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {"num_updates": torch.tensor(self.num_updates), **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state dict of whole tensors."""
        weights = {
            name.removeprefix("module."): value for name, value in state.items() if name != "num_updates"
        }
        self.module.load_state_dict(placed_state(weights, self.module.state_dict()))
        self.num_updates = int(state["num_updates"])


_Pairs = list[tuple[list[Tensor], list[Tensor]]]


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def _alike(averages: Iterable[Tensor], present: Iterable[Tensor]) -> _Pairs:
    """Pairs of tensors, in lists of one type and device each, for which PyTorch has one kernel a list."""
    lists: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for average, value in zip(averages, present, strict=True):
        kind = (average.dtype, average.device, has_shards(average))
        for tensors, tensor in zip(lists[kind], (average, value), strict=True):
            tensors.append(tensor.detach())
    return list(lists.values())


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters by their distance from the output: the classifier, res5, ..., res2, the stem.

    Of a network of another package, its parts from the last one to the first, in the order in which it names them.
    """
    if not isinstance(model, VideoModel):
        return _parts(model)
    backbones = model.backbones().values()
    names = [name for name, _ in next(iter(backbones)).named_children()]
    layers = [
        [p for backbone in backbones for p in backbone.get_submodule(name).parameters()] for name in names
    ]
    inside = {id(parameter) for layer in layers for parameter in layer}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [head, *reversed(layers)]


def _parts(network: nn.Module) -> list[list[nn.Parameter]]:
    parts = [part for part in network.children() if any(True for _ in part.parameters())]
    own = list(network.parameters(recurse=False))
    if len(parts) == 1 and not own:
        return _parts(parts[0])
    layers: list[list[nn.Parameter]] = []
    taken: set[nn.Parameter] = set()  # two parts may share one
    for part in reversed(parts):
        layers.append([parameter for parameter in part.parameters() if parameter not in taken])
        taken.update(layers[-1])
    left = [parameter for parameter in own if parameter not in taken]  # as the positions of a transformer
    return [*layers[:-1], [*left, *layers[-1]]] if layers else [left]
