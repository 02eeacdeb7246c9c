import os
from pathlib import Path

import pytest

from corrnet_models import list_models
from corrnet_train.config.load import (
    ConfigError,
    config_to_dict,
    load_config,
    parse_config,
    recipe_schema,
    recipe_text,
    text_keys,
)
from corrnet_train.config.recipes import check_given_once, flatten, list_recipes, read_recipe
from corrnet_train.config.schema import RunConfig
from corrnet_train.networks.build import build_from_config

COMPLETE = [recipe.name for recipe in list_recipes() if not recipe.is_part]
PARTS = [recipe.name for recipe in list_recipes() if recipe.is_part]


@pytest.mark.parametrize("name", COMPLETE)
def test_shipped_recipes_are_valid_alone_and_with_every_part(name):
    assert load_config(name).run.dir.as_posix() == f"runs/{name}"
    is_of_others = load_config(name).model.is_of_another_package
    for part in PARTS:
        if is_of_others and "name" in read_recipe(part).get("model", {}):
            continue  # its correlation blocks are not for our models
        config = load_config(f"{name}+{part}", ["model.init_from=x"] if part == "finetune" else [])
        assert config.model.name in list_models() or is_of_others


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
        ("epochs=2", "did you mean optim.epochs[?]"),
        ("train.epoch=2", "did you mean optim.epochs[?]"),
        ("batch_size=2", "did you mean optim.batch_size or eval.batch_size[?]"),
        ("optim.learning_rat=1", "unknown key optim.learning_rat: did you mean optim"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("optm.lr=1", "unknown key optm: did you mean optim"),
        ("data.clip.crop=1", "did you mean data.clip.crop_size"),
        ("optim.lr=fast", "optim.lr: Input should be a number, got 'fast'"),
        ("optim.clip_grad_norm=none", "optim.clip_grad_norm: Input should be a number or null, got 'none'"),
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
    with pytest.raises(ConfigError, match=r"no recipe corrnet5: .*did you mean corrnet50"):
        load_config("motionbench+corrnet5")
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
    with pytest.raises(
        ConfigError, match=r"^eval must be a section .* got 'none'; data.eval_split=none trains"
    ):
        load_config("own", ["eval=none"])


def test_a_section_without_keys_changes_nothing(tmp_path):
    """As is left when all of its lines are commented out."""
    (tmp_path / "mine.yaml").write_text(
        "extends: motionbench\ndata:\noptim:\n  # lr: 1\nrun: {dir: runs/a}\n"
    )
    assert load_config(tmp_path / "mine.yaml") == load_config("motionbench", ["run.dir=runs/a"])


@pytest.mark.parametrize(
    ("key", "written", "meaning"),
    [
        (
            "optim.batch_size",
            "010",
            "8 in YAML, which reads it in base 8: write 8, or leave out the 0 in front",
        ),
        ("run.seed", "-0_17", "-15 in YAML, which reads it in base 8"),
        (
            "optim.epochs",
            "1:30",
            "90 in YAML, which reads it in base 60: write 90, or put quotes around a text",
        ),
        ("optim.lr", "1:30.5", "90.5 in YAML, which reads it in base 60"),
    ],
)
def test_numbers_of_base_8_and_60_are_refused(key, written, meaning, tmp_path):
    """010 would be 8, and 1:30 would be 90."""
    section, name = key.split(".")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"# mine\n{section}:\n  {name}: {written}\n")
    with pytest.raises(ConfigError) as error:
        read_recipe(recipe)
    assert str(error.value).startswith(f"{recipe}: {written}, in line 3, is {meaning}")
    for change in (f"{key}={written}", f"{section}={{{name}: {written}}}"):
        with pytest.raises(ConfigError) as error:
            load_config("motionbench", [change])
        assert f"{change!r}: {written}, in line 1, is {meaning}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("run.dir=010", Path("010")),
        ("run={dir: 010}", Path("010")),
        ("run.wandb=1:30", "1:30"),
        ("run.seed=0", 0),
        ("run.seed=0x10", 16),
        ("run.seed=1_000", 1000),
        ("optim.lr=01.5", 1.5),
        ("optim.lr=1e-3", 0.001),
        ("train.channels_last=on", True),
        ("train.channels_last=no", False),
    ],
)
def test_other_spellings_of_values_mean_what_they_look_like(change, value):
    check_given_once([change], text_keys=text_keys())
    config = config_to_dict(load_config("motionbench", [change]))
    key = change.partition("=")[0].replace("run", "run.dir") if "{" in change else change.partition("=")[0]
    assert flatten(config)[key] == (str(value) if isinstance(value, Path) else value)


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e999"])
def test_no_setting_takes_a_number_that_is_not_finite(number):
    numbers = [
        key
        for key, value in flatten(config_to_dict(load_config("motionbench"))).items()
        if isinstance(value, float) or key in ("data.error_budget", "optim.clip_grad_norm")
    ]
    assert {"optim.lr", "optim.epochs", "augment.mixup", "eval.every_epochs", "train.timeout"} <= set(numbers)
    for key in numbers:
        with pytest.raises(ConfigError, match=rf"{key}: Input should be"):
            load_config("motionbench", [f"{key}={number}"])


def test_a_key_that_is_given_twice_is_refused_with_file_and_lines(tmp_path):
    mine, base = tmp_path / "mine.yaml", tmp_path / "base.yaml"
    mine.write_text("extends: motionbench\noptim:\n  lr: 1\n\noptim:\n  epochs: 3\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: optim is given twice, in lines 2 and 5: keep one"):
        load_config(mine)
    base.write_text("extends: motionbench\noptim: {lr: 1, epochs: 3, 'lr': 2}\n")
    mine.write_text("extends: base.yaml\n")
    with pytest.raises(ConfigError, match=r"base.yaml: lr is given twice, in line 2: keep one"):
        load_config(mine)
    with pytest.raises(
        ConfigError, match=r"override 'optim=\{lr: 1, lr: 2\}': lr is given twice, in line 1: keep"
    ):
        load_config("motionbench", ["optim={lr: 1, lr: 2}"])


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("optim.lr=1", "optim.lr=1", "optim.lr"),
        ("optim={lr: 1, epochs: 5}", "optim.lr=2", "optim.lr"),
        ("model.options.dropout=0.5", "model.options=null", "model.options"),
    ],
)
def test_a_key_that_is_given_twice_on_the_command_line_is_refused(first, second, key):
    with pytest.raises(ConfigError) as error:
        check_given_once([first, "run.seed=3", second])
    assert str(error.value) == f"{key} is given twice, as {first!r} and as {second!r}: keep one of them"

    check_given_once(["optim={lr: 1}", "optim.epochs=5", "run.dir=[x"])
    check_given_once(["run.dir={x", "run.wandb={a: 1, a: 2}"], text_keys=text_keys())
    with pytest.raises(ConfigError, match=r"run\.dir is given twice"):
        check_given_once(["run.dir={x", "run={dir: y}"], text_keys=text_keys())


def test_a_yaml_merge_is_no_key_that_is_given_twice(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "extends: motionbench\nmodel: {options: &most {dropout: 0.5}}\noptim: {<<: {lr: 1, epochs: 9}, lr: 2}\n"
    )
    optim = load_config(tmp_path / "mine.yaml").optim
    assert (optim.lr, optim.epochs) == (2, 9)


def test_a_section_on_the_command_line_is_merged_as_one_of_a_recipe_is():
    before = load_config("motionbench").data.clip
    assert load_config("motionbench", ["data.clip={flip: true}"]).data.clip == before.model_copy(
        update={"flip": True}
    )


def test_homes_and_variables_in_paths_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("SCRATCH", "/scratch/$me")
    overrides = ["run.dir=~/runs/a", "data.shards=$SCRATCH/shards", "model.init_from=${SCRATCH}x"]
    config = load_config("motionbench", overrides)
    assert config.run.dir.as_posix() == "/homes/me/runs/a"
    assert config.data.shards.as_posix() == "/scratch/$me/shards"
    assert config.model.init_from.as_posix() == "/scratch/$mex"
    assert config_to_dict(config)["run"]["dir"] == "/homes/me/runs/a"
    (tmp_path / "base.yaml").write_text("extends: motionbench\nrun: {dir: ~/b}\n")
    monkeypatch.setenv("RECIPES", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("extends: [$RECIPES/base.yaml]\n")
    assert load_config(tmp_path / "mine.yaml").run.dir.as_posix() == "/homes/me/b"


def test_what_only_looks_like_a_variable_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    config = load_config("motionbench", ["run.dir=a$5/~/b$", "run.wandb=$HOME", "data.train_split=~x"])
    assert (config.run.dir.as_posix(), config.run.wandb) == ("a$5/~/b$", "$HOME")
    assert config.data.train_split == "~x"


def test_every_name_of_a_path_can_be_written_and_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("SCRATCH", "/scratch/$name")
    monkeypatch.delenv("name", raising=False)
    overrides = ["run.dir=a$$name/$${b}/$$$$/$5$", "data.shards=./~/$$SCRATCH$SCRATCH", "model.init_from=~/x"]
    config = load_config("motionbench", overrides)
    assert config.run.dir == Path("a$name/${b}/$$/$5$")
    assert config.data.shards == Path("~/$SCRATCH/scratch/$name")
    assert config.model.init_from == Path("/homes/me/x")
    (tmp_path / "config.yaml").write_text(recipe_text(config))
    assert load_config(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match=r"variable name is not set; \$\$ stands for a \$ in a name"):
        load_config("motionbench", ["run.dir=a$name"])


def test_a_variable_that_is_not_set_and_a_user_who_is_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    for path in ("$NOT_SET/x", "a/${NOT_SET}"):
        with pytest.raises(
            ConfigError, match=r"^data.shards: .*: the environment variable NOT_SET is not set"
        ):
            load_config("motionbench", [f"data.shards={path}"])
    with pytest.raises(ConfigError, match=r"^run.dir: ~no-one/x: ~no-one is no home folder; ./~no-one is"):
        load_config("motionbench", ["run.dir=~no-one/x"])
    (tmp_path / "mine.yaml").write_text("extends: $NOT_SET/base.yaml\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: extends: .* variable NOT_SET is not set"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text", ["2026-11-26", "007", "1e3", "12:30", "on", "0x10", "[x", "a: b #c", "'1'"])
def test_text_stays_text(text, tmp_path):
    wanted = text.strip("'")
    config = load_config("motionbench", [f"run.dir={text}", f"run.wandb={text}", f"data.eval_split={text}"])
    assert (config.run.dir.as_posix(), config.run.wandb, config.data.eval_split) == (wanted,) * 3
    if not set("[:'") & set(text) or text == "12:30":
        mine = tmp_path / "mine.yaml"
        mine.write_text(f"extends: motionbench\nrun: {{dir: {text}, wandb: {text}}}\n")
        config = load_config(mine)
        assert (config.run.dir.as_posix(), config.run.wandb) == (wanted, wanted)
    assert load_config("motionbench", ["run.wandb=null"]).run.wandb is None


@pytest.mark.parametrize("text", ["false", "no", "none", "off"])
def test_no_log_is_no_project_of_that_name(text):
    with pytest.raises(ValueError, match=r"run\.wandb is the name of a project, and null for no log"):
        load_config("motionbench", [f"run.wandb={text}"])


def test_shards_behind_a_url_are_refused_without_its_password():
    with pytest.raises(ValueError, match=r"data.shards is a folder, and https://\*\*\*@host/shards is none"):
        load_config("motionbench", ["data.shards=https://me:secret@host/shards"])


def test_an_empty_section_takes_away_what_was_set():
    config = load_config("motionbench", ["model.options={dropout: 0.5}", "model.options={}"])
    assert config.model.options == {}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.compile=1", "train.compile: Input should be true or false, got 1"),
        ("train.compile=0", "train.compile: Input should be true or false, got 0"),
        ("run.deterministic=1", "run.deterministic: Input should be true or false, got 1"),
        ("optim.epochs=true", "optim.epochs: Input should be a number, got true"),
        ("data.clip.num_frames=yes", "data.clip.num_frames: Input should be a number, got true"),
        ("data.clip.num_frames='8'", "data.clip.num_frames: Input should be a number, got '8'"),
        (
            "data.clip.short_side=[true, 40]",
            "data.clip.short_side: Input should be a number or null, got true",
        ),
        ("optim.clip_grad_norm=false", "optim.clip_grad_norm: Input should be a number or null, got false"),
        ("data.clip.flip='no'", "data.clip.flip: Input should be true or false, got 'no'"),
    ],
)
def test_numbers_truth_and_text_are_not_taken_for_one_another(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("motionbench", [override])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{dropout: false}", "model.options.dropout: must be a number; got False"),
        ("{zero_init_residual: 1}", "model.options.zero_init_residual: must be true or false; got 1"),
        ("{depths: [1, 1, 0, 1]}", "model.options.depths: every stage needs at least 1; got (1, 1, 0, 1)"),
        ("{dropout: 2}", "model.options.dropout: Input should be less than 1, got 2"),
    ],
)
def test_a_wrong_option_of_the_model_is_named_in_a_line(options, message):
    config = load_config("motionbench", [f"model.options={options}"])
    with pytest.raises(ConfigError) as error:
        build_from_config(config, 8)
    assert str(error.value) == message


def test_numbers_are_read_alike_in_a_recipe_and_on_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: motionbench\noptim: {samples_per_epoch: 1e3, lr: 1e-3}\n")
    config = load_config("motionbench", ["optim.samples_per_epoch=1e3", "optim.lr=1e-3"])
    assert load_config(tmp_path / "mine.yaml").optim == config.optim
    assert (config.optim.samples_per_epoch, config.optim.lr) == (1000, 0.001)


def test_what_is_no_file_is_refused_as_a_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe.yaml is a named pipe, and a recipe is a YAML file"):
        load_config(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"is a folder, and a recipe is a YAML file"):
        load_config(tmp_path)
