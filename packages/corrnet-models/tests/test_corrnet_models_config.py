"""Configurations, the registry, and what they refuse."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from corrnet_models import (
    ModelConfig,
    TwoStreamResNet,
    VideoResNet,
    _registry,
    build_model,
    create_model,
    list_models,
    model_config,
    model_info,
    register_model,
)


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
    yield


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 10}, "num_frames must be a multiple of 4, .*got 10"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_classes": -1}, "num_classes"),
        ({"corr_group_size": 48}, "corr_group_size must divide the 64 channels that res2 .*got 48"),
        ({"corr_kernel_size": 4}, "must be odd.*got 4"),
        ({"stem_kernel_size": 6}, "must be odd.*got 6"),
        ({"corr_dilation": 0}, "corr_dilation"),
        ({"corr_after": ("res6",)}, "res6"),
        ({"corr_after": ("res2", "res2")}, "twice"),
        ({"corr_middle": ("res2",), "depths": (1, 2, 2, 2)}, "at least 2 bottlenecks"),
        ({"corr_block": "product"}, "'sum' or 'concat'"),
        ({"corr_block": "concat", "corr_group_size": 8}, "leaves no channel.*392 of 256"),
        ({"corr_searched": "next"}, "'previous' or 'current'"),
        ({"depths": (2, 2, 2)}, "depths"),
        ({"widths": (64, 128, 0, 512)}, "at least 1"),
        ({"in_channels": 2, "flow_channels": 2}, "flow_channels=2 of in_channels=2"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"dropout": float("inf")}, "dropout"),
        ({"dropout": False}, "must be a number; got False"),
        ({"dropout": "0.5"}, "must be a number; got '0.5'"),
        ({"corr_group_size": True}, "must be a number; got True"),
        ({"num_classes": "8"}, "must be a number; got '8'"),
        ({"depths": [2, True, 2, 2]}, "depths\\n.*must be a number; got True"),
        ({"zero_init_residual": 1}, "must be true or false; got 1"),
        ({"zero_init_residual": "no"}, "must be true or false; got 'no'"),
        ({"temporal_convs": (0, 1, 1, 1)}, "must be true or false; got 0"),
        ({"corr_block": True}, "'sum' or 'concat'"),
        ({"corr_after": [True]}, "'res2'"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_config("corrnet26", **changes)


def test_numbers_of_every_kind_are_taken() -> None:
    config = model_config(
        "corrnet26", num_classes=np.int64(3), dropout=0, corr_group_size=None, widths=[64] * 4
    )
    assert (config.num_classes, config.dropout, config.widths) == (3, 0.0, (64, 64, 64, 64))


def test_group_size_is_free_where_nothing_is_correlated() -> None:
    assert model_config("r2plus1d26", widths=(10, 20, 30, 40)).corr_stages == ()


def test_a_block_amid_a_stage_alone_makes_it_a_stage_with_correlation() -> None:
    options = {"corr_after": (), "corr_middle": ("res4",), "depths": (1, 1, 2, 1)}
    config = model_config("corrnet26", **options)
    assert config.corr_stages == ("res4",) and config.fixed_length
    with pytest.raises(ValueError, match="must divide the 256 channels that res4"):
        config.replace(corr_group_size=48)


def test_config_is_frozen_and_closed() -> None:
    config = ModelConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.num_frames = 16
    with pytest.raises(ValidationError, match="extra"):
        ModelConfig(frames=16)


def test_config_survives_json() -> None:
    config = model_config("corrnet101", num_frames=16)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_replace_validates() -> None:
    config = ModelConfig()
    assert config.replace(num_frames=16).num_frames == 16
    assert config.num_frames == 32
    with pytest.raises(ValueError, match="multiple of 4"):
        config.replace(num_frames=15)
    with pytest.raises(ValueError, match="extra"):
        config.replace(frames=16)


def test_overrides_reach_the_model() -> None:
    model = create_model("corrnet_tiny", num_frames=4, num_classes=3, corr_kernel_size=3)
    assert model.config == model_config("corrnet_tiny", num_frames=4, num_classes=3, corr_kernel_size=3)
    assert model.config.replace(num_frames=8, num_classes=8, corr_kernel_size=5) == model_config(
        "corrnet_tiny"
    )


def test_unknown_names_get_the_nearest_valid_one() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'cornet26'; did you mean 'corrnet26'.*r2d26"):
        create_model("cornet26")
    with pytest.raises(
        ValueError, match=r"'corr_kernal_size'.*did you mean 'corr_kernel_size'.*allowed: num_frames"
    ):
        create_model("corrnet26", corr_kernal_size=5)
    with pytest.raises(ValueError, match="unknown option 'xyz' of model 'corrnet26'; allowed"):
        model_config("corrnet26", xyz=1)
    for foreign in ("weights", "img_size", "global_pool", "checkpoint_path"):
        with pytest.raises(ValueError, match=f"unknown option '{foreign}' of model 'corrnet26'; allowed"):
            create_model("corrnet26", **{foreign: 1})


def test_flow_channels_decide_between_one_and_two_streams() -> None:
    one, two = model_config("r2plus1d_tiny"), model_config("r2plus1d_tiny_twostream")
    assert isinstance(build_model(one), VideoResNet)
    assert isinstance(build_model(two), TwoStreamResNet)
    with pytest.raises(ValueError, match="flow_channels=2"):
        VideoResNet(two)
    with pytest.raises(ValueError, match="flow_channels=0"):
        TwoStreamResNet(one)


@pytest.mark.usefixtures("clean_registry")
def test_registering_a_model() -> None:
    @register_model(resolution=64, paper_gmacs={8: 1.0})
    def wide() -> ModelConfig:
        """A wide one.

        With more to say.
        """
        return model_config("corrnet_tiny", widths=(32, 64, 128, 256))

    info = model_info("wide")
    assert (info.name, info.summary, info.resolution) == ("wide", "A wide one.", 64)
    assert "wide" in list_models("w*")
    assert create_model("wide").num_features == 1024
    with pytest.raises(ValueError, match="registered already"):
        register_model()(wide)
