"""What processes that share one model check among themselves."""

import copy
import itertools
import resource
from pathlib import Path

import torch
from torch import nn

from corrnet_models import create_model
from corrnet_train.checkpoint.async_writer import ShardedCheckpointWriter
from corrnet_train.checkpoint.state import Checkpoint, weights_hash
from corrnet_train.config.schema import OptimConfig
from corrnet_train.distributed.parallelize import full_tensor, gradient_exchange, parallelize, wrap
from corrnet_train.training.optim import build_optimizer
from corrnet_train.training.prefetch import DeviceBatch
from corrnet_train.training.step import TrainStep
from corrnet_train.utils.precision import AUTOCAST

CPU = torch.device("cpu")
CASES = [
    {"name": "sgd", "precision": "bf16", "batch_norm": "sync", "model": "corrnet_tiny"},
    {"name": "adamw", "precision": "bf16", "recompute": True},
    {"name": "sgd", "precision": "fp16", "clip": 0.5},
]


def step_of(
    model,
    ranks,
    parallel,
    *,
    name,
    clip=None,
    precision="fp32",
    batch_norm="local",
    recompute=False,
    compiled=False,
):
    model = copy.deepcopy(model)
    if compiled:
        model._compiled_call_impl = torch.compile(model._call_impl, backend="aot_eager")
    model.set_grad_checkpointing(recompute)
    parallelize(model, ranks, CPU, batch_norm=batch_norm, parallel=parallel, precision=precision)
    optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.01))
    wrapped = wrap(model, ranks, CPU)
    step = TrainStep(
        wrapped, optimizer, device=CPU, precision=precision, num_micro_batches=2, clip_grad_norm=clip,
        reduce=ranks.sum_, world_size=ranks.world_size,
        synchronize=lambda last: gradient_exchange(wrapped, last),
    )  # fmt: skip
    if precision == "fp16":  # the first step overflows and is skipped, the second one is taken
        step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, backoff_factor=2.0**-5)
    if wrapped is not model:
        step.warm_up(torch.zeros(2, 3, 4, 16, 16))
    return model, step


def types_of_weights(model):
    """Types of the whole weights that a step sees, filled by the next ones."""
    seen = {}
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm3d))
    for name, module in (("fc", model.fc), ("norm", norm)):
        module.register_forward_pre_hook(
            lambda module, _, name=name: seen.update({name: module.weight.dtype})
        )
    return seen


def steps_equal_those_of_copies(ranks):
    """Two steps of two micro-batches, sharded and with a copy of the model for each process."""
    torch.manual_seed(0)
    models = {name: create_model(name, num_frames=4, num_classes=3) for name in ("corrnet_tiny", "r2d_tiny")}
    videos = torch.randint(256, (ranks.world_size, 4, 2, 3, 4, 16, 16), dtype=torch.uint8)[ranks.rank]
    batches = [DeviceBatch(video, torch.arange(2), ["a", "b"]) for video in videos]
    for case in CASES:
        case = dict(case)
        model, results = models[case.pop("model", "r2d_tiny")], []
        for parallel in ("ddp", "fsdp"):
            shared, step = step_of(model, ranks, parallel, **case)
            seen = types_of_weights(shared)
            figures = [step(iter(batches[2 * n : 2 * n + 2]), step=n, rate=0.01).values() for n in range(2)]
            results.append((torch.tensor([(f.loss, f.grad_norm) for f in figures]), shared))
        (own, copied), (sharded_figures, sharded) = results
        assert seen == {"fc": AUTOCAST[case.get("precision", "fp32")] or torch.float32, "norm": torch.float32}
        # What overflows in fp16 is inf, or NaN where inf of both signs are added: that depends on the kernels which
        # the processor has. Either skips the step.
        overflows, finite = case.get("precision") == "fp16", own.isfinite()
        assert finite.tolist() == [[True, not overflows], [True, True]] and own[1, 1] > 0, own
        assert torch.equal(sharded_figures.isfinite(), finite), (sharded_figures, own)
        torch.testing.assert_close(sharded_figures[finite], own[finite], rtol=1e-3, atol=1e-4)
        start, close = dict(model.named_parameters()), {"rtol": 1e-3, "atol": 2e-4}
        for (name, one), other in zip(copied.named_parameters(), sharded.parameters(), strict=True):
            assert other.to_local().numel() <= -(-len(one) // ranks.world_size) * one[0].numel(), name
            torch.testing.assert_close(full_tensor(other.detach()), one.detach(), **close)
        assert any(not torch.equal(one, start[name]) for name, one in copied.named_parameters())
        for one, other in itertools.zip_longest(copied.buffers(), sharded.buffers()):
            torch.testing.assert_close(other, one, **close)


def first_steps_are_rounded_as_later_ones(ranks):
    """Sums of three and more values depend on their order, which a copied model finds in its first steps."""
    torch.manual_seed(0)
    model, step = step_of(create_model("r2d_tiny", num_frames=4, num_classes=3), ranks, "ddp", name="sgd")
    generator = torch.Generator().manual_seed(ranks.rank)
    videos = torch.randint(256, (2, 2, 3, 4, 16, 16), dtype=torch.uint8, generator=generator)
    gradients = []
    for number in range(4):
        batches = (DeviceBatch(video, torch.tensor([0, 2]), []) for video in videos)
        step(batches, step=number, rate=0.0).values()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    for number, gradient in enumerate(gradients[:-1]):
        assert torch.equal(gradient, gradients[-1]), f"step {number}"


def compiled_steps_equal_eager_ones(ranks):
    """Two steps of two micro-batches with a copy of the model for each process, whose hooks the compiler sees.

    Blocks are recomputed: the compiler has them as functions of their own, the harder case.
    """
    torch.manual_seed(0)
    model = create_model("r2d_tiny", num_frames=4, num_classes=4)
    trained = []
    for compiled in (False, True):
        ours, step = step_of(model, ranks, "ddp", name="sgd", recompute=True, compiled=compiled)
        generator = torch.Generator().manual_seed(ranks.rank)
        for number in range(2):
            videos = torch.randint(256, (2, 2, 3, 4, 16, 16), dtype=torch.uint8, generator=generator)
            batches = (DeviceBatch(video, torch.tensor([0, 3]), []) for video in videos)
            step(batches, step=number, rate=0.01)
        trained.append(nn.utils.parameters_to_vector(ours.parameters()))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-6)


def a_full_disk_keeps_the_checkpoint_before(ranks, folder):
    """The last process may write 8 KiB a file, or writes elsewhere: all hear of it, and what was there stays."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2000, 41), nn.Linear(41, 3))  # 41 and 3 rows: uneven and empty shards
    expected = weights_hash(model)
    parallelize(model, ranks, CPU, batch_norm="local", parallel="fsdp")
    writer, last = ShardedCheckpointWriter(ranks, timeout=60), Path(folder) / "last.pt"

    def save(step, last=last):
        state = {
            "model": model.state_dict(),
            "optimizer": {},
            "loader": {},
            "config": {},
            "classes": [],
            "rng": [],
        }
        writer.save(Checkpoint(step=step, best_score=0.0, train_seconds=0.0, **state), last)
        writer.wait()

    save(1)
    assert weights_hash(model) == expected
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == ranks.world_size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        save(2)
    except OSError as error:
        message = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if ranks.world_size > 1:
        try:
            save(3, last if ranks.is_first else Path(folder) / "elsewhere" / "last.pt")
        except OSError as error:
            assert "all machines must share" in str(error), error
        else:
            raise AssertionError("a folder that is not shared was not noticed")
    assert Checkpoint.load(last).step == 1
    return message
