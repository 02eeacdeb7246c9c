import pytest

from corrnet_train.config import ConfigError, config_to_dict, list_recipes, load_config, parse_config


def test_shipped_recipes_are_valid():
    assert "motionbench" in list_recipes()
    for name in list_recipes():
        load_config(name)


def test_overrides_are_read_as_yaml():
    config = load_config(
        "motionbench",
        [
            "optim.lr=1e-3",
            "optim.clip_grad_norm=null",
            "model.options.corr_kernel_size=3",
            "data.clip.flip=true",
        ],
    )
    assert config.optim.lr == 1e-3
    assert config.optim.clip_grad_norm is None
    assert config.model.options == {"corr_kernel_size": 3}
    assert config.data.clip.flip is True


def test_a_config_survives_its_own_file_format():
    config = load_config("motionbench")
    assert parse_config(config_to_dict(config)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=1", "unknown key optim.learning_rat: did you mean optim"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("optm.lr=1", "unknown key optm: did you mean optim"),
        ("data.clip.crop=1", "did you mean data.clip.crop_size"),
        ("optim.lr=fast", "optim.lr: Input should be a valid number"),
        ("optim.batch_size=0", "optim.batch_size: .* greater than 0, got 0"),
        ("optim.name=adam", "optim.name: .*'sgd' or 'adamw'"),
        ("optim.lr", "must have the form section.key=value"),
        ("data.shards.x=1", "data.shards is a value"),
    ],
)
def test_a_wrong_override_is_named_with_what_is_allowed(override, message):
    if override == "data.shards.x=1":
        message = "shards is a value, not a section"
    with pytest.raises(ConfigError, match=message):
        load_config("motionbench", [override])


def test_a_wrong_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe nothing: neither a file nor one of .*motionbench"):
        load_config("nothing")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("model: {name: corrnet_tiny}")
    with pytest.raises(ConfigError, match=r"missing key data"):
        load_config(broken)
