"""One training step: forward, loss, backward, clipping, update, over one or more micro-batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corrnet_train.config.schema import TrainConfig
from corrnet_train.distributed.parallelize import full_tensor
from corrnet_train.training.loss import count_correct
from corrnet_train.training.optim import set_learning_rate
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.utils.errors import WorkError
from corrnet_train.utils.precision import Precision, autocast
from video_data import normalize
from video_data.media.planes import YuvClips
from video_data.utils.messages import some_of

Loss = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor | YuvClips, Tensor], tuple[Tensor, Tensor]]


def prepare_model(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Set memory format, activation checkpointing and compilation, in place; names of weights stay."""
    if config.channels_last and config.parallel != "fsdp":  # which splits contiguous weights only
        for parameter in model.parameters():
            if parameter.ndim == 5:  # of convolutions; `Module.to` refuses a model that has 4-d weights too
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    if config.grad_checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    device = next(model.parameters()).device
    if (mode := config.compile_mode(device.type)) is not None:
        model.compile(mode=mode)
    return model


@contextmanager
def compile_errors() -> Iterator[None]:
    """Enter a block that runs a model which may have to be compiled first.

    Raises:
        WorkError: It cannot be compiled.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(f"{error}".partition("\n\n")[0].split())
        raise WorkError(
            f"torch.compile failed: {reason}. train.compile=false trains without it (--debug shows all it says)"
        ) from error


@dataclass
class StepResult:
    """What a step gave. On a GPU the figures may still be on their way; `values` waits for them.

    Attributes:
        step: Number of the step, from 0.
        rate: Its learning rate.
        micro_losses: Loss of each micro-batch of this process, [micro-batches], on the device.
        keys: Sample keys of each micro-batch of this process.
    """

    step: int
    rate: float
    micro_losses: Tensor
    keys: list[list[str]]
    _figures: Tensor
    _ready: torch.cuda.Event | None = field(default=None, repr=False)

    @classmethod
    def start_reading(
        cls, figures: Tensor, *, step: int, rate: float, micro_losses: Tensor, keys: list[list[str]]
    ) -> "StepResult":
        """Start copying the figures [4] to the host."""
        if figures.device.type != "cuda":
            return cls(step, rate, micro_losses, keys, figures)
        host = figures.to("cpu", non_blocking=True)  # page-locked, so the copy does not wait
        ready = torch.cuda.Event()
        ready.record()
        return cls(step, rate, micro_losses, keys, host, ready)

    def values(self) -> "StepValues":
        """Return the figures over all processes."""
        if self._ready is not None:
            self._ready.synchronize()
        loss, tally, stop, grad_norm = self._figures.tolist()
        return StepValues(loss=loss, tally=tally, stop=stop > 0, grad_norm=grad_norm)


@dataclass(frozen=True)
class StepValues:
    """Figures of a step over all processes.

    Attributes:
        loss: Mean loss of the global batch.
        tally: Sum over the clips of the figure beside the loss, of one class the clips that are right.
        stop: Whether a process has been asked to stop.
        grad_norm: Norm of the gradient before clipping.
    """

    loss: float
    tally: float
    stop: bool
    grad_norm: float


class TrainStep:
    """Takes training steps.

    Args:
        model: Maps normalized clips [N, C, L, H, W] to logits [N, classes]; it may be wrapped for several processes.
        optimizer: Over the model's parameters.
        device: Where the model is.
        precision: "fp32", or the type of autocast; "fp16" scales the loss.
        num_micro_batches: micro-batches a step.
        clip_grad_norm: Largest norm of the gradient; None does not clip.
        loss: Mean loss of logits [N, classes], float32, and targets.
        tally: Sums the figure beside the loss over the clips, given logits and labels as they come.
        prepare: Makes normalized clips [N, C, L, H, W] and the targets of `loss` of pixels and labels [N].
        after_update: Called when the weights have changed.
        reduce: Sums a tensor over all processes, in place.
        world_size: Number of processes.
        synchronize: Context of a micro-batch; it is told whether gradients are to be exchanged after it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        num_micro_batches: int = 1,
        clip_grad_norm: float | None = None,
        loss: Loss = F.cross_entropy,
        tally: Loss = count_correct,
        prepare: Prepare = lambda video, label: (normalize(video), label),
        after_update: Callable[[], None] | None = None,
        reduce: Callable[[Tensor], None] = lambda tensor: None,
        world_size: int = 1,
        synchronize: Callable[[bool], AbstractContextManager[None]] = lambda last: nullcontext(),
    ) -> None:
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._model = model
        self._optimizer = optimizer
        self._device = device
        self._precision = precision
        self._num_micro_batches = num_micro_batches
        self._limit = clip_grad_norm
        self._loss = loss
        self._tally = tally
        self._prepare = prepare
        self._after_update = after_update
        self._reduce = reduce
        self._world_size = world_size
        self._synchronize = synchronize
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(
        self, batches: Iterator[DeviceBatch], *, step: int, rate: float, stop: bool = False
    ) -> StepResult:
        """Take the micro-batches of one step from `batches` and update the weights.

        Args:
            batches: micro-batches on the device.
            step: Number of the step, from 0.
            rate: Learning rate.
            stop: This process has been asked to stop; `StepValues.stop` tells it to all of them.
        """
        self._model.train()
        set_learning_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        losses, tallies, keys = [], [], []
        for number in range(self._num_micro_batches):
            batch = next(batches)
            with self._synchronize(number == self._num_micro_batches - 1), compile_errors():
                loss, tally = self._backward(batch.video, batch.label)
            losses.append(loss)
            tallies.append(tally)
            keys.append(batch.keys)
        grad_norm = self._update()
        micro_losses = torch.stack(losses)
        figures = torch.stack(
            [
                micro_losses.mean() / self._world_size,
                torch.stack(tallies).sum().float(),
                torch.full((), float(stop), device=self._device),
            ]
        )
        self._reduce(figures)
        return StepResult.start_reading(
            torch.cat([figures, grad_norm.reshape(1)]),
            step=step,
            rate=rate,
            micro_losses=micro_losses,
            keys=keys,
        )

    def warm_up(self, clips: Tensor) -> None:
        """Go through steps that change nothing, before the first one.

        A wrapped model arranges its exchange of gradients by what it sees in its first two steps: how often each
        gradient is ready, then in which order they are. If those were real ones, gradients would be summed in another
        order there than later, and a run that goes on would round its first steps otherwise than one that was never
        interrupted. Of two processes nothing would show, since a sum of two values has one order.

        Args:
            clips: Any clips [N, C, L, H, W] of the shape of a micro-batch, on the device.
        """
        buffers = [buffer.clone() for buffer in self._model.buffers()]
        self._model.train()
        with compile_errors(), torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            for _ in range(2):
                with autocast(self._device, self._precision):
                    logits = self._model(clips)
                (logits.float() * 0).sum().backward()
                self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, kept in zip(self._model.buffers(), buffers, strict=True):
                buffer.copy_(kept)

    def _backward(self, video: Tensor | YuvClips, label: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of one micro-batch; return its loss and its tally."""
        clips, target = self._prepare(video, label)
        with autocast(self._device, self._precision):
            logits = self._model(clips)
        loss = self._loss(logits.float(), target)
        self.scaler.scale(loss / self._num_micro_batches).backward()
        return loss.detach(), self._tally(logits.detach(), label)

    def _update(self) -> Tensor:
        """Clip and apply the gradient; return its norm before clipping, float32."""
        self.scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        if self._limit is not None:  # without a limit the gradients need not be read and written once more
            nn.utils.clip_grads_with_norm_(self._parameters, self._limit, total)
        grad_norm = full_tensor(total)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        if self._after_update is not None:
            self._after_update()
        return grad_norm.detach().float()


def diverged_message(
    values: StepValues, step: int, rate: float, keys: Sequence[str], folder: Path, *, most: int = 16
) -> str:
    """Return what to tell someone whose loss or gradient is no longer a finite number."""
    what = "loss" if not math.isfinite(values.loss) else "gradient norm"
    value = values.loss if what == "loss" else values.grad_norm
    return (
        f"the {what} is {value} at step {step}, learning rate {rate:.3g}; the last checkpoint "
        "is kept. Try a lower optim.lr, more optim.warmup_epochs or optim.clip_grad_norm=1. "
        f"Samples of the batch (all in {folder / 'diverged.json'}): {some_of(keys, most=most)}"
    )
