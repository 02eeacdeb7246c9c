"""Networks on a GPU beside themselves on the CPU; without a GPU the CPU takes its place where that says something."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corrnet_models import VideoModel, _blocks, create_model, load_pretrained, save_pretrained

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES = ("r2d_tiny", "r2plus1d_tiny", "corrnet_tiny", "r2plus1d_tiny_twostream")
DTYPES = {torch.float32: 2e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference, as a share of what is wanted; TF32 rounds float32."""
STEP = {torch.float32: 1e-2, torch.bfloat16: 0.7, torch.float16: 0.3}
"""The same for a step. Rounding alone makes 0.47 of gradients in bfloat16 and 0.2 in float16; wrong ones make 1.4."""


def make(name: str, device: torch.device) -> tuple[VideoModel, Tensor]:
    torch.manual_seed(0)
    model = create_model(name, num_frames=4, num_classes=4)
    clips = torch.randn(4, model.config.in_channels, 4, 32, 32)
    for parameter in model.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return model.to(device), clips.to(device).contiguous(memory_format=torch.channels_last_3d)


def trained(model: VideoModel, clips: Tensor, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Scores, statistics and gradients of a step, on the CPU."""
    model.zero_grad()
    with torch.autocast(clips.device.type, dtype, enabled=dtype != torch.float32):
        scores = model.train()(clips)
    torch.nn.functional.cross_entropy(
        scores.float(), torch.arange(len(clips), device=clips.device) % 4
    ).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    groups = [[scores], [*model.buffers()], gradients]
    return [[tensor.detach().float().cpu() for tensor in group] for group in groups]


def difference(found: list[list[Tensor]], wanted: list[list[Tensor]]) -> float:
    """Length of the difference of a group's tensors, as a share of the length of those wanted; the largest group's."""
    errors = []
    for ours, theirs in zip(found, wanted, strict=True):
        assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in theirs]
        a, b = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (ours, theirs))
        errors.append(float((a - b).norm() / b.norm()))
    return max(errors)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_those_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    model, clips = make(name, torch.device("cpu"))
    with torch.no_grad():
        wanted = model.eval()(clips)
        model.to(DEVICE)
        with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
            found = model(clips.to(DEVICE)).float().cpu()
    assert (found - wanted).abs().max() < DTYPES[dtype] * wanted.abs().max()


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_step_equals_that_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted = trained(*make(name, torch.device("cpu")))
    assert difference(trained(*make(name, DEVICE)), wanted) < 1e-2


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_norms_of_pictures_equal_those_of_clips_on_a_gpu(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clips = make("corrnet_tiny", DEVICE)
    assert _blocks._normalizes_pictures(clips)
    pictures = trained(copy.deepcopy(model), clips, dtype)
    monkeypatch.setattr(_blocks, "_normalizes_pictures", lambda x: False)
    assert difference(trained(copy.deepcopy(model), clips, dtype), pictures) < STEP[dtype]


@needs_gpu  # on one core of a CPU PyTorch takes another convolution, which does not keep it
@pytest.mark.parametrize("name", NAMES)
def test_every_feature_map_keeps_the_memory_format(name: str) -> None:
    """A map in another format would be copied by the next convolution, and batch norm would be slow."""
    model, clips = make(name, DEVICE)
    for stage in ("res2", "res3", "res4", "res5"):
        features = model.forward_features(clips, stage=stage)
        assert features.is_contiguous(memory_format=torch.channels_last_3d), stage


@needs_gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_step_never_waits_for_the_gpu(name: str) -> None:
    model, clips = make(name, DEVICE)
    target = torch.arange(len(clips), device=DEVICE) % 4
    for checked in (False, True):  # first kernels are compiled and loaded
        torch.cuda.set_sync_debug_mode("error" if checked else "default")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                scores = model(clips)
            torch.nn.functional.cross_entropy(scores.float(), target).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_compiled_step_equals_an_eager_one(dtype: torch.dtype) -> None:
    model, clips = make("corrnet_tiny", DEVICE)
    eager = trained(copy.deepcopy(model), clips, dtype)
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True)
    assert difference(trained(compiled, clips, dtype), eager) < STEP[dtype]


@needs_gpu
def test_recomputed_blocks_give_the_same_step() -> None:
    model, clips = make("corrnet_tiny", DEVICE)
    plain = trained(copy.deepcopy(model), clips)
    model.set_grad_checkpointing(True)
    assert difference(trained(model, clips), plain) < 1e-3


@needs_gpu
def test_a_model_is_saved_and_loaded_from_its_device(tmp_path: Path) -> None:
    model, clips = make("corrnet_tiny", DEVICE)
    save_pretrained(model, tmp_path, classes=["a", "b", "c", "d"])
    loaded = load_pretrained(tmp_path).model.to(DEVICE)
    with torch.no_grad():
        assert torch.allclose(loaded(clips), model.eval()(clips), atol=1e-4)
