"""The shipped recipes in use: trained for a step, shown, compared and checked by editors."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.config.load import load_config, parse_config
from corrnet_train.config.recipes import list_recipes
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.trainer import Trainer

OF_OTHERS = "finetune_torchvision"  # it has a test of its own, in networks
COMPLETE = [recipe.name for recipe in list_recipes() if not recipe.is_part and recipe.name != OF_OTHERS]


def corrnet(*arguments, exit_code=0):
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*COMPLETE, "kinetics400+l16"])
def test_every_recipe_trains_and_evaluates(recipe, motionbench, tmp_path):
    """With a tiny model on tiny clips; everything else is the recipe's."""
    small = ["data.clip.num_frames=4", "data.clip.crop_size=16", "data.num_workers=0", "run.device=cpu"]
    model = ["model.name=corrnet_tiny", "run.precision=fp32", f"data.shards={motionbench[1]}"]
    batch = ["optim.batch_size=16", "optim.epochs=1", "optim.warmup_epochs=0.5", "optim.samples_per_epoch=32"]
    config = load_config(recipe, [*small, *model, *batch, f"run.dir={tmp_path / 'run'}", "run.log_every=1"])
    result = Trainer(config).run()
    assert result.finished and result.step == 2
    lines = read_metrics(config.run.dir)
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx(
        [config.optim.peak_lr] * 2
    )  # the end of warm-up, then the cosine's first step
    assert [line["num_videos"] for line in lines if line["kind"] == "eval"] == [
        8 if config.data.eval_split == "val" else 16
    ]


@pytest.mark.parametrize("recipe", ["own", "own+finetune"])
def test_own_trains_on_a_few_videos(recipe, motionbench, model_folder, tmp_path):
    """Only the model and the size of clips are smaller, and there are two steps."""
    small = [
        "model.name=corrnet_tiny", f"data.shards={motionbench[1]}", "data.clip.num_frames=8", "data.clip.crop_size=32",
        "data.num_workers=0", "optim.samples_per_epoch=16", "optim.epochs=1", "optim.warmup_epochs=0.5",
        "run.device=cpu", f"run.dir={tmp_path}", "run.log_every=1",
    ]  # fmt: skip
    is_finetuning = recipe.endswith("finetune")
    config = load_config(recipe, [*small, *([f"model.init_from={model_folder}"] if is_finetuning else [])])
    assert Trainer(config).run().finished
    rates = [line["lr"] for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert rates == pytest.approx([(0.01 if is_finetuning else 0.1) / 8] * 2)


def test_the_list_names_recipes_and_parts():
    output = corrnet("recipe", "list")
    for recipe in list_recipes():
        assert recipe.name in output
    assert output.index("parts, to be added with +") > output.index("kinetics400")


def test_what_is_shown_is_a_recipe_again(tmp_path):
    name, change = "something_v1+corrnet50+l16", "optim.batch_size=16"
    shown = corrnet("recipe", "show", name, change)
    assert parse_config(yaml.safe_load(shown)) == load_config(name, [change])
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown)
    assert load_config(mine) == load_config(name, [change])
    (tmp_path / "part.yaml").write_text("run: {wandb: 007}\n")
    assert yaml.safe_load(corrnet("recipe", "show", str(tmp_path / "part.yaml"))) == {"run": {"wandb": "007"}}
    assert yaml.safe_load(corrnet("recipe", "show", name, "run.dir=a$$b"))["run"]["dir"] == "a$$b"
    assert yaml.safe_load(corrnet("recipe", "show", "l16")) == {"data": {"clip": {"num_frames": 16}}}


def test_differences_are_those_of_the_settings():
    lines = corrnet("recipe", "diff", "kinetics400", "kinetics400+l16").splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["data.clip.num_frames", "32", "16"],
        ["run.dir", '"runs/kinetics400"', '"runs/kinetics400+l16"'],
    ]
    assert "no setting differs" in corrnet("recipe", "diff", "kinetics400", "kinetics400")


def test_every_setting_is_explained():
    rows: list[str] = []
    for line in corrnet("recipe", "options").splitlines()[1:]:
        if line.startswith(" "):  # a long meaning goes on
            rows[-1] += line
        else:
            rows.append(line)
    assert {"optim.lr", "data.clip.num_frames", "augment.mixup"} <= {row.split()[0] for row in rows}
    for row in rows:
        assert len(row.split()) > 2, row  # setting, default and meaning
    assert "optim.lr" not in corrnet("recipe", "options", "data")
    assert "no section optm; allowed: model, data, augment" in corrnet(
        "recipe", "options", "optm", exit_code=2
    )


def test_the_schema_is_json():
    schema = json.loads(corrnet("recipe", "schema"))
    assert schema["additionalProperties"] is False and "extends" in schema["properties"]


def test_a_recipe_that_is_not_there_is_named():
    output = " ".join(corrnet("recipe", "show", "kinetics400+corrnet999", exit_code=2).split())
    assert "no recipe corrnet999: neither a file nor one of corrnet101" in output
