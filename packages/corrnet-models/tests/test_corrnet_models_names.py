"""Names that users of timm know: what they do here."""

import pytest
import torch
from torch import nn

from corrnet_models import STAGES, VideoFeatures, count_gmacs, create_model, model_config


@pytest.mark.parametrize("name", ["corrnet_tiny", "r2plus1d_tiny_twostream"])
def test_intermediates_are_the_maps_of_the_stages(name):
    model = create_model(name).eval()
    x = torch.randn(2, model.config.in_channels, 8, 32, 32)
    with torch.no_grad():
        expected = [model.forward_features(x, stage) for stage in STAGES]
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, expected[-1])
        for found, own in zip(maps, expected, strict=True):
            assert torch.equal(found, own)
        for indices, own in ((2, expected[2:]), ([0, -2], [expected[0], expected[2]]), ((1,), expected[1:2])):
            last, maps = model.forward_intermediates(x, indices)
            alone = model.forward_intermediates(x, indices, intermediates_only=True)
            assert torch.equal(last, expected[-1])
            for one, other, wanted in zip(maps, alone, own, strict=True):
                assert torch.equal(one, wanted) and torch.equal(other, wanted)


def test_stages_behind_the_last_intermediate_are_not_computed():
    model = create_model("r2d_tiny")
    model.backbone.res4.register_forward_hook(lambda *_: pytest.fail("res4 was run"))
    assert (
        len(model.forward_intermediates(torch.randn(1, 3, 8, 32, 32), [0, 1], intermediates_only=True)) == 2
    )


@pytest.mark.parametrize("indices", [5, 0, -1, [], [4], [-5]])
def test_stages_that_are_not_there_are_refused(indices):
    with pytest.raises(
        ValueError, match=r"stages are 0 res2, 1 res3, 2 res4, 3 res5, or from the end -1 to -4"
    ):
        create_model("r2d_tiny", features_only=True, out_indices=indices)


@pytest.mark.parametrize("name", ["corrnet_tiny", "r2plus1d_tiny_twostream"])
def test_features_only_puts_out_maps_and_has_no_idle_parameters(name):
    torch.manual_seed(0)
    whole = create_model(name)
    model = create_model(name, features_only=True, out_indices=(0, 2))
    assert isinstance(model, VideoFeatures)
    found = whole.load_state_dict(model.model.state_dict(), strict=False)
    assert found.unexpected_keys == [] and all("res5" in key or "fc" in key for key in found.missing_keys)
    x = torch.randn(2, whole.config.in_channels, 8, 32, 32)
    maps = model.eval()(x)
    for found, stage in zip(maps, ("res2", "res4"), strict=True):
        torch.testing.assert_close(found, whole.eval().forward_features(x, stage))
    assert model.feature_info.channels() == [found.shape[1] for found in maps]
    assert model.feature_info.reduction() == [32 // found.shape[3] for found in maps]
    assert model.feature_info.module_name() == ["res2", "res4"]
    sum(found.sum() for found in maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    if name == "corrnet_tiny":
        model.model.set_num_frames(4)
        assert len(model(x[:, :, :4])) == 2


def test_out_indices_without_features_only_are_refused():
    with pytest.raises(ValueError, match="out_indices says which stages features_only=True puts out"):
        create_model("r2d_tiny", out_indices=(0,))


def test_options_of_timm_are_those_of_the_configuration():
    model = create_model("r2d_tiny", in_chans=1, drop_rate=0.5, num_classes=0)
    assert (model.config.in_channels, model.config.dropout, model.config.num_classes) == (1, 0.5, 0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(torch.randn(2, 1, 8, 32, 32)).shape == (2, model.num_features)
    assert count_gmacs(model.config, resolution=32) > 0
    for twice in ({"in_chans": 1, "in_channels": 1}, {"dropout": 0.1, "drop_rate": 0.1}):
        with pytest.raises(ValueError, match="is given twice for model 'r2d_tiny'"):
            model_config("r2d_tiny", **twice)
    with pytest.raises(ValueError, match="did you mean 'drop_rate'"):
        create_model("r2d_tiny", droprate=0.5)
