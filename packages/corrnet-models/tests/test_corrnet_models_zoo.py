"""What holds for every registered model, on small clips; one of similar models stands for all."""

import copy
import pickle
from functools import cache

import pytest
import torch
from torch import Tensor

import corrnet_models
from corrnet_models import STAGES, VideoModel, build_model, create_model, list_models, model_info

NUM_CLASSES = 5

# Trainable parameters with the default configuration; a change here changes checkpoints.
NUM_PARAMETERS = {
    "corrnet101": 52_642_480,
    "corrnet26": 18_195_888,
    "corrnet50": 29_432_496,
    "corrnet_tiny": 679_352,
    "r2d26": 14_765_776,
    "r2d_tiny": 508_568,
    "r2plus1d26": 16_858_576,
    "r2plus1d26_twostream": 33_713_616,
    "r2plus1d_tiny": 574_328,
    "r2plus1d_tiny_twostream": 1_148_504,
}


@cache
def built(name: str) -> VideoModel:
    torch.manual_seed(0)
    return create_model(name, num_frames=4, num_classes=NUM_CLASSES)


# Nothing but depth or width tells them from corrnet26 and corrnet101, and from the tiny nets.
SIMILAR = {"corrnet50", "r2d26", "r2plus1d26", "r2plus1d26_twostream"}
DIFFERENT = [
    pytest.param(name, marks=pytest.mark.slow) if name == "corrnet101" else name
    for name in list_models()
    if name not in SIMILAR
]


@pytest.fixture(params=DIFFERENT)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return copy.deepcopy(built(request.param))


def clips(model: VideoModel, num_clips: int = 2, *, num_frames: int | None = None) -> Tensor:
    config = model.config
    shape = (num_clips, config.in_channels, num_frames or config.num_frames, 32, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_models_of_the_paper_are_there() -> None:
    full_size = ["corrnet101", "corrnet26", "corrnet50", "r2d26", "r2plus1d26", "r2plus1d26_twostream"]
    tiny = ["corrnet_tiny", "r2d_tiny", "r2plus1d_tiny", "r2plus1d_tiny_twostream"]
    assert set(full_size + tiny) <= set(list_models())
    assert list_models() == sorted(list_models())
    assert list_models("r2d*") == [name for name in list_models() if name.startswith("r2d")]
    assert "r2d26" in list_models("r2d*")
    for name in full_size:
        info = model_info(name)
        assert (info.config.num_frames, info.config.num_classes, info.resolution) == (32, 400, 224)
    for name in tiny:
        assert (model_info(name).config.num_frames, model_info(name).resolution) == (8, 32)


def test_every_model_has_a_summary() -> None:
    assert all(model_info(name).summary.endswith(".") for name in list_models())


@pytest.mark.parametrize("name", list_models())
def test_number_of_parameters_is_pinned(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert corrnet_models.count_parameters(model) == NUM_PARAMETERS.get(name), "add it to NUM_PARAMETERS"


def test_forward_is_the_head_of_the_features(model: VideoModel) -> None:
    model.eval()
    x = clips(model)
    with torch.no_grad():
        features = model.forward_features(x)
        scores = model(x)
    strides = model.feature_info[-1]
    size = 32 // strides.spatial_stride
    num_frames = model.config.num_frames // strides.temporal_stride
    assert features.shape == (2, model.num_features, num_frames, size, size)
    assert scores.shape == (2, NUM_CLASSES)
    assert torch.equal(scores, model.forward_head(features))
    assert torch.isfinite(scores).all()


def test_feature_info_describes_what_the_stages_put_out(model: VideoModel) -> None:
    maps: dict[str, torch.Tensor] = {}
    for info in model.feature_info:
        model.get_submodule(info.module).register_forward_hook(
            lambda module, inputs, output, path=info.module: maps.update({path: output})
        )
    with torch.no_grad():
        x = clips(model, 1)
        model.eval()(x)
        shapes = {path: output.shape for path, output in maps.items()}
        for stage in STAGES:
            of_stage = [output for path, output in maps.items() if path.endswith(stage)]
            assert torch.equal(model.forward_features(x, stage), torch.cat(of_stage, dim=1))
        with pytest.raises(ValueError, match="stage must be one of res2, res3, res4, res5; got 'res1'"):
            model.forward_features(x, "res1")  # type: ignore[arg-type]
    for info in model.feature_info:
        size = 32 // info.spatial_stride
        length = model.config.num_frames // info.temporal_stride
        assert shapes[info.module] == (1, info.channels, length, size, size)


def test_every_parameter_gets_a_finite_gradient(model: VideoModel) -> None:
    model.train()(clips(model)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.fc.parameters())


def test_training_moves_the_running_statistics_and_evaluation_does_not(model: VideoModel) -> None:
    def statistics() -> list[Tensor]:
        return [buffer.clone() for name, buffer in model.named_buffers() if name.endswith("running_mean")]

    before = statistics()
    with torch.no_grad():
        model.eval()(clips(model))
        assert all(torch.equal(old, new) for old, new in zip(before, statistics(), strict=True))
        model.train()(clips(model))
    assert not any(torch.equal(old, new) for old, new in zip(before, statistics(), strict=True))


def test_state_dict_round_trip(model: VideoModel) -> None:
    other = build_model(model.config).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(clips(model)), model.eval()(clips(model)))


def test_deepcopy_and_pickle_keep_the_function(model: VideoModel) -> None:
    model.eval()
    with torch.no_grad():
        expected = model(clips(model))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.config == model.config
            assert torch.equal(other(clips(model)), expected)


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(model: VideoModel) -> None:
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    for net in (model, other):
        net.train()(clips(net)).square().sum().backward()
    gradients = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name].grad), name
    buffers = dict(other.named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_reset_classifier_replaces_the_classifier_alone(model: VideoModel) -> None:
    backbone = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    model.reset_classifier(3)
    assert model.config.num_classes == 3
    assert model(clips(model)).shape == (2, 3)
    after = model.state_dict()
    assert after["fc.weight"].shape == (3, model.num_features)
    assert all(name in after for name in backbone)
    assert all(after[name].shape == value.shape for name, value in backbone.items())


def test_set_num_frames_makes_the_net_take_longer_clips(model: VideoModel) -> None:
    longer = 2 * model.config.num_frames
    model.set_num_frames(longer)
    assert model.config.num_frames == longer
    fresh = build_model(model.config)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in fresh.state_dict().items()
    }
    with torch.no_grad():
        assert model.eval()(clips(model, 1, num_frames=longer)).shape == (1, NUM_CLASSES)
