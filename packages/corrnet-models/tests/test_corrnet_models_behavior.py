"""Behavior that one tiny model shows for all: input checks, checkpointing, precision, compilation."""

import copy

import pytest
import torch
from torch import Tensor, nn

from corrnet_models import _blocks, create_model


def clips(num_clips: int = 2, channels: int = 3, num_frames: int = 8) -> Tensor:
    return torch.randn(num_clips, channels, num_frames, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 32, 32), r"\[N, C, L, H, W\]; got 4 dimensions"),
        (torch.zeros(1, 5, 8, 32, 32), "expected 3 channels .* got 5"),
        (torch.zeros(1, 3, 16, 32, 32), r"each of 8 frames; got 16. Call set_num_frames\(16\)"),
    ],
)
def test_a_clip_that_does_not_fit_is_named(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("corrnet_tiny")(x)


@pytest.mark.parametrize("name", ["r2d_tiny", "r2plus1d_tiny"])
def test_a_net_without_filters_per_frame_takes_any_length(name: str) -> None:
    assert create_model(name).eval()(clips(1, num_frames=12)).shape == (1, 8)


@pytest.mark.parametrize("filters", ["shared", "none"])
def test_correlation_without_filters_per_frame_takes_any_length(filters: str) -> None:
    assert create_model("corrnet_tiny", corr_filters=filters).eval()(clips(1, num_frames=12)).shape == (1, 8)


def test_set_num_frames_refuses_before_it_changes_anything() -> None:
    model = create_model("corrnet_tiny")
    with pytest.raises(ValueError, match="multiple of 4"):
        model.set_num_frames(10)
    assert model.config.num_frames == 8
    assert model(clips()).shape == (2, 8)


def test_set_num_frames_to_the_same_length_changes_no_score() -> None:
    model = create_model("corrnet_tiny").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        before = model(clips())
        model.set_num_frames(8)
        assert torch.equal(model(clips()), before)


def test_set_num_frames_interpolates_the_filters_in_time() -> None:
    model = create_model("corrnet_tiny")
    weight = model.get_submodule("backbone.res2.corr.matching.correlation").weight
    with torch.no_grad():
        weight.copy_(torch.arange(8.0).view(8, 1, 1, 1).expand_as(weight))
    model.set_num_frames(16)
    longer = model.get_submodule("backbone.res2.corr.matching.correlation").weight
    assert longer.shape == (16, 16, 5, 5)
    steps = longer[:, 0, 0, 0]
    assert (steps.diff() >= 0).all()
    assert steps.min() >= 0
    assert steps.max() <= 7
    assert len(steps.unique()) > 8


def test_reset_classifier_keeps_dtype_and_leaves_the_classifier_out_with_0() -> None:
    model = create_model("r2d_tiny").double()
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    features = torch.ones(1, model.num_features, 2, 2, 2, dtype=torch.float64)
    assert torch.equal(model.forward_head(features), features.mean((2, 3, 4)))
    model.reset_classifier(4)
    assert model.get_classifier() is model.fc
    assert model.fc.weight.dtype == torch.float64
    assert model.forward_head(features).shape == (1, 4)
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3, 4)))
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(-1)
    assert model.config.num_classes == 4


def test_gradient_checkpointing_recomputes_each_block_once_in_training_alone() -> None:
    model = create_model("corrnet_tiny")
    calls: list[str] = []
    block = model.get_submodule("backbone.res3.block1.spatial")
    block.register_forward_hook(lambda *_: calls.append("spatial"))
    model.set_grad_checkpointing()
    model(clips()).sum().backward()
    assert len(calls) == 2
    model.eval()(clips()).sum().backward()
    assert len(calls) == 3
    model.train().set_grad_checkpointing(False)
    model(clips()).sum().backward()
    assert len(calls) == 4


def test_gradient_checkpointing_survives_an_error_in_the_recomputation() -> None:
    model = create_model("corrnet_tiny")
    model.set_grad_checkpointing()
    scores = model(clips())
    norm = model.get_submodule("backbone.res3.block1.spatial.bn")
    norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scores.sum().backward()
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 1


def test_dropout_acts_in_training_alone() -> None:
    model = create_model("r2d_tiny", dropout=0.5)
    features = torch.ones(1, model.num_features, 2, 2, 2)
    assert torch.equal(model.eval().forward_head(features), model.forward_head(features))
    model.train()
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return create_model("corrnet_tiny").state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_initial_weights() -> None:
    model = create_model("corrnet_tiny")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))
    filters = model.get_submodule("backbone.res2.corr.matching.correlation").weight
    assert torch.equal(filters, torch.ones_like(filters))
    for path, fan_out in {
        "res5.block1.reduce": 128,  # of 256 channels
        "res5.block1.spatial": 128 * 9,
        "res5.block1.shortcut": 512,
        "res4.corr.matching.reduce": 64,
    }.items():
        weight = model.get_submodule(f"backbone.{path}").get_parameter(
            "conv.weight" if "block" in path else "weight"
        )
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03), path
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(model.fc.bias, torch.zeros_like(model.fc.bias))


def test_zero_init_residual_spares_the_correlation_blocks() -> None:
    model = create_model("corrnet_tiny", zero_init_residual=True)
    assert not model.get_submodule("backbone.res2.block1.expand_bn").weight.any()
    assert model.get_submodule("backbone.res2.corr.expand_bn").weight.all()


def test_clips_in_channels_last_give_the_same_scores() -> None:
    model = create_model("corrnet_tiny").eval()
    x = clips()
    with torch.no_grad():
        scores = model(x.contiguous(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(scores, model(x), rtol=1e-4, atol=1e-5)


def test_autocast_trains() -> None:
    model = create_model("corrnet_tiny")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(clips())
    assert scores.dtype == torch.bfloat16
    scores.float().square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r2d_tiny", "r2plus1d_tiny_twostream"])
def test_traces_into_one_graph(name: str) -> None:
    model = create_model(name).eval()
    x = clips(channels=model.config.in_channels)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.slow
def test_trains_as_one_graph() -> None:
    model = create_model("corrnet_tiny")
    other = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for net in (compiled, other):
        net(clips()).square().sum().backward()
    for parameter, expected in zip(model.parameters(), other.parameters(), strict=True):
        scale = expected.grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7)


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    # One correlation block: the others would compile to the same code for other sizes.
    model = create_model("corrnet_tiny", corr_after=("res3",)).eval()
    with torch.no_grad():
        scores = torch.compile(model, fullgraph=True)(clips())
        torch.testing.assert_close(scores, model(clips()), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_exports_with_a_free_batch_size() -> None:
    model = create_model("corrnet_tiny").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (clips(),), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(clips(3)), model(clips(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "corrnet_tiny"])
def test_norms_of_pictures_equal_those_of_clips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, here on a CPU: the same results, and no copies for changing a view in place."""
    torch.manual_seed(0)
    model = create_model(name, num_frames=4, num_classes=4)
    clip = torch.randn(2, 3, 4, 32, 32).contiguous(memory_format=torch.channels_last_3d)

    def results(pictures: bool) -> tuple[list[torch.Tensor], set[str]]:
        monkeypatch.setattr(_blocks, "_normalizes_pictures", lambda x: pictures)
        own = copy.deepcopy(model)
        scores = own(clip)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            scores.square().sum().backward()
        found = [scores, own.eval()(clip), *own.buffers(), *(p.grad for p in own.parameters())]
        return found, {event.key for event in profile.key_averages()}

    clips, _ = results(pictures=False)
    pictures, done = results(pictures=True)
    for ours, theirs in zip(pictures, clips, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert "ConvolutionBackward0" in done
    assert not {key for key in done if "CopySlices" in key}


@pytest.mark.parametrize("name", ["corrnet_tiny", "r2plus1d_tiny_twostream"])
def test_frozen_stages_have_no_gradients_and_batch_norm_as_in_evaluation(name):
    model = create_model(name, num_classes=3)
    model.freeze_stages(2)
    model.train()
    clips = torch.randn(2, model.config.in_channels, 8, 32, 32)
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    model(clips).sum().backward()
    for stage, is_frozen in (("stem", True), ("res2", True), ("res3", False), ("res5", False)):
        for backbone, module in model.backbones().items():
            part = module.get_submodule(stage)
            assert all((parameter.grad is None) == is_frozen for parameter in part.parameters())
            for key, value in part.named_buffers():
                assert torch.equal(value, statistics[f"{backbone}.{stage}.{key}"]) == is_frozen
    model.freeze_stages(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError, match="from 0 to 5: the stem, res2"):
        model.freeze_stages(6)
