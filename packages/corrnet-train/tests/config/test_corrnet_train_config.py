import pytest

from corrnet_models import list_models
from corrnet_train.config.recipes import flatten, list_recipes, read_recipe
from corrnet_train.config.schema import (
    ConfigError,
    RunConfig,
    config_to_dict,
    load_config,
    parse_config,
    recipe_schema,
)

COMPLETE = [recipe.name for recipe in list_recipes() if not recipe.is_part]
PARTS = [recipe.name for recipe in list_recipes() if recipe.is_part]


@pytest.mark.parametrize("name", COMPLETE)
def test_shipped_recipes_are_valid_alone_and_with_every_part(name):
    assert load_config(name).run.dir.as_posix() == f"runs/{name}"
    for part in PARTS:
        config = load_config(f"{name}+{part}", ["model.init_from=x"] if part == "finetune" else [])
        assert config.model.name in list_models()


def test_every_data_set_has_a_recipe():
    names = "kinetics400 something_v1 something_v2 diving48 sports1m ucf101 hmdb51"
    assert set(names.split()) <= set(COMPLETE)
    assert all(recipe.summary.endswith(".") for recipe in list_recipes())


def test_the_recipes_follow_the_protocol_of_the_paper():
    epochs = {
        "kinetics400": (250, 40),
        "something_v1": (150, 24),
        "diving48": (150, 24),
        "sports1m": (500, 80),
    }
    for name, lengths in epochs.items():
        config = load_config(name)
        assert (config.optim.epochs, config.optim.warmup_epochs) == lengths
        assert config.optim.name == "sgd" and config.eval.num_clips == 10
        assert (config.data.clip.crop_size, config.data.clip.short_side_range) == (224, (256, 320))
    assert not load_config("something_v1").data.clip.flip


def test_recipes_are_joined_and_the_later_one_wins():
    config = load_config("kinetics400+corrnet50+l16", ["model.options.dropout=0.5"])
    assert (config.model.name, config.data.clip.num_frames) == ("corrnet50", 16)
    assert config.model.options == {"dropout": 0.5}
    assert config.optim.epochs == load_config("kinetics400").optim.epochs
    assert config.run.dir.name == "kinetics400+corrnet50+l16"


def test_a_recipe_extends_others_by_name_and_by_path(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: [kinetics400, l16]\noptim: {lr: 0.5}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\noptim: {batch_size: 16}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.optim.lr, config.optim.batch_size, config.optim.epochs) == (0.5, 16, 250)
    assert config.data.clip.num_frames == 16
    assert config.run.dir.as_posix() == "runs/mine"


def test_recipes_in_a_circle_and_wrong_parents_are_named(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: mine.yaml\n")
    with pytest.raises(ConfigError, match=r"in a circle: .*mine.yaml -> .*mine.yaml"):
        load_config(mine)
    mine.write_text("extends: nowhere\n")
    with pytest.raises(ConfigError, match=r"no recipe nowhere \(extended by .*mine.yaml\)"):
        load_config(mine)
    mine.write_text("extends: 3\n")
    with pytest.raises(ConfigError, match=r"extends must be a recipe or a list of recipes, got 3"):
        load_config(mine)


def test_the_schema_knows_every_setting_and_requires_none():
    schema = recipe_schema()
    sections = {
        name: part["$ref"].rpartition("/")[2] for name, part in schema["properties"].items() if "$ref" in part
    }
    for key in flatten(config_to_dict(load_config("kinetics400"))):
        section, name = key.split(".")[:2]
        assert name in schema["$defs"][sections[section]]["properties"], key
    assert sections.keys() == RunConfig.model_fields.keys()
    assert "extends" in schema["properties"] and "required" not in schema
    assert read_recipe("l16").keys() <= schema["properties"].keys()


def test_settings_that_contradict_each_other_are_named():
    with pytest.raises(ConfigError, match=r"^model.new_head is for model.init_from, which is not given$"):
        load_config("kinetics400+finetune")
    with pytest.raises(ConfigError, match=r"^augment.rand_augment is for RGB: data.clip.modality is flow"):
        load_config("kinetics400+r2plus1d26_flow", ["augment.rand_augment=9"])
    with pytest.raises(
        ConfigError, match=r"^model.options.num_frames cannot be set: it follows from data.clip.num_"
    ):
        load_config("kinetics400", ["model.options.num_frames=8"])
    with pytest.raises(
        ConfigError, match=r"^optim.warmup_epochs=40 is a part of optim.epochs=10 and cannot be"
    ):
        load_config("kinetics400", ["optim.epochs=10"])


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
    broken.write_text("data: shards")
    with pytest.raises(ConfigError, match=r"broken.yaml: data must be a section .* got 'shards'"):
        load_config(broken)
    broken.write_text("model: {name: corrnet_tiny}")
    with pytest.raises(ConfigError, match=r"missing key data"):
        load_config(broken)


def test_a_section_without_keys_changes_nothing(tmp_path):
    """As is left when all of its lines are commented out."""
    (tmp_path / "mine.yaml").write_text(
        "extends: motionbench\ndata:\noptim:\n  # lr: 1\nrun: {dir: runs/a}\n"
    )
    assert load_config(tmp_path / "mine.yaml") == load_config("motionbench", ["run.dir=runs/a"])
