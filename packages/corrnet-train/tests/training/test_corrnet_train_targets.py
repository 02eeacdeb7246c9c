"""Sets with several labels, or a number, for each video: trained, tested, used and exported."""

import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from corrnet_models import create_model
from corrnet_train import Trainer, VideoClassifier, evaluate, export_model
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.cli import app
from corrnet_train.evaluation.evaluate import MultilabelResult, RegressionResult
from corrnet_train.evaluation.scores import VideoScores, label_precision, value_errors
from corrnet_train.inference.features import PackedSplit, extract_features
from corrnet_train.inference.targets import Targets
from corrnet_train.training.initialize import initialize
from corrnet_train.training.loss import balanced_weights, make_loss, tally
from corrnet_train.training.metrics_log import read_metrics
from video_data import ClipConfig, open_shards, pack_csv

SPLITS = {"train": 24, "val": 8}
SMALL_CLIPS = ["data.clip.num_frames=4", "data.clip.crop_size=16", "eval.num_clips=2"]


def pack(motionbench, folder, column, targets):
    """Pack videos with one of a few targets each, in turn; return the folder of the shards."""
    lines = [f"path,{column},split"]
    for split, count in SPLITS.items():
        videos = sorted((motionbench[0] / "videos" / split).glob("*/*.mp4"))[:count]
        lines += [f"{path},{targets[number % len(targets)]},{split}" for number, path in enumerate(videos)]
    (folder / "list.csv").write_text("\n".join(lines))
    pack_csv(folder / "list.csv", folder / "shards", progress=False)
    return folder / "shards"


@pytest.fixture(scope="module")
def several(motionbench, tmp_path_factory):
    return pack(
        motionbench, tmp_path_factory.mktemp("several"), "labels", ["jump", "run|jump", "run", "run|sit"]
    )


@pytest.fixture(scope="module")
def numbers(motionbench, tmp_path_factory):
    return pack(motionbench, tmp_path_factory.mktemp("numbers"), "value", ["1000", "1010", "1030"])


def a_classifier(num_outputs, names, targets, name="corrnet_tiny"):
    torch.manual_seed(0)
    model = create_model(name, num_classes=num_outputs, num_frames=4)
    clip = ClipConfig(num_frames=4, crop_size=32)
    return VideoClassifier(model, classes=names, clip=clip, device=torch.device("cpu"), targets=targets)


def told(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


# --- losses and what is told beside them


def test_the_loss_of_several_labels_is_the_binary_cross_entropy_of_each():
    logits, labels = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    p = logits.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(make_loss(Targets("multilabel"))(logits, labels), expected)


def test_balanced_weights_make_a_rare_label_count_as_much_as_its_absence():
    assert balanced_weights([10, 2], num_samples=10).tolist() == [1, 4]  # what all have is learned, too
    weights = balanced_weights([1, 5, 0], num_samples=10)
    assert weights.tolist() == [9, 1, 0]
    labels = torch.zeros(10, 3)
    labels[0, 0] = 1
    each = torch.zeros(10, 3, requires_grad=True)
    make_loss(Targets("multilabel"), class_weights=weights)(each, labels).backward()
    assert each.grad[0, 0].item() == pytest.approx(-each.grad[1:, 0].sum().item())


def test_the_loss_of_numbers_does_not_depend_on_their_unit():
    outputs = torch.randn(5, 1)
    meters = Targets("regression", mean=3.0, std=2.0)
    millimeters = Targets("regression", mean=3000.0, std=2000.0)
    values = 5 * torch.rand(5, 1)
    torch.testing.assert_close(
        make_loss(meters)(outputs, values), make_loss(millimeters)(outputs, 1000 * values)
    )
    torch.testing.assert_close(1000 * meters.scores(outputs), millimeters.scores(outputs))
    perfect = (values - 3) / 2
    assert make_loss(meters)(perfect, values) < 1e-10
    assert tally(meters)(perfect + 1, values).item() == pytest.approx(5 * 2)


def test_a_clip_of_several_labels_is_hit_where_its_most_probable_class_is_one_of_them():
    outputs = torch.tensor([[0.1, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert tally(Targets("multilabel"))(outputs, labels) == 2


# --- training


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_several_labels_are_trained_and_resumed_to_the_bit(mixed, several, make_config):
    settings = [f"data.shards={several}", "eval.every_epochs=0.5", "run.checkpoint_every=2"]
    settings += ["optim.class_weights=balanced", *(["augment.mixup=0.8"] if mixed else [])]
    config = make_config(*settings, "optim.epochs=1", model="r2d_tiny")
    whole = Trainer(config).run()
    lines = read_metrics(config.run.dir)
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert all(math.isfinite(loss) for loss in losses) and losses[0] < 2
    assert all(0 <= line["hit1"] <= 1 for line in lines if line["kind"] == "train")
    evals = [line for line in lines if line["kind"] == "eval"]
    assert evals and all(0 < line["map"] <= 1 and line["num_videos"] == 8 for line in evals)
    stopped = make_config(*settings, "optim.epochs=1", name="stopped", model="r2d_tiny")
    trainer = Trainer(stopped)
    save = trainer.save

    def stop_at_two(*paths):
        save(*paths)
        if trainer.step == 2:
            trainer.writer.wait()
            raise KeyboardInterrupt

    trainer.save = stop_at_two
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = Trainer(stopped, resume=True).run()
    ours, theirs = Checkpoint.load(whole.checkpoint), Checkpoint.load(again.checkpoint)
    assert ours.step == theirs.step and ours.best_score == theirs.best_score > 0
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in ours.model)


@pytest.mark.slow
def test_numbers_are_learned_in_their_unit(numbers, make_config):
    few = (f"data.shards={numbers}", "data.train_split=val")  # 8 videos, which are learned in a few steps
    config = make_config(*few, "optim.epochs=20", "optim.lr=0.004", "eval.every_epochs=10", model="r2d_tiny")
    result = Trainer(config).run()
    lines = read_metrics(config.run.dir)
    maes = [line["mae"] for line in lines if line["kind"] == "train"]
    assert np.mean(maes[-5:]) < 0.95 * np.mean(maes[:5])  # 0.82 when this was written
    assert all(0 < line["rmse"] < 100 for line in lines if line["kind"] == "eval")
    classifier = VideoClassifier.from_checkpoint(result.checkpoint)
    values = [sample.value for sample in open_shards(numbers).samples("val")]
    assert classifier.targets == Targets("regression", float(np.mean(values)), float(np.std(values)))
    assert Checkpoint.load(result.checkpoint).best_score == -min(
        line["mae"] for line in lines if line["kind"] == "eval"
    )


def test_a_set_with_one_value_is_refused(motionbench, numbers, make_config, tmp_path):
    lines = (numbers.parent / "list.csv").read_text().splitlines()
    lines = [line.replace("1010,train", "1000,train").replace("1030,train", "1000,train") for line in lines]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    pack_csv(tmp_path / "list.csv", tmp_path / "shards", progress=False)
    with pytest.raises(ValueError, match=r"all videos of split train .* have the value 1000"):
        Trainer(make_config(f"data.shards={tmp_path / 'shards'}"))


def test_a_set_with_one_set_of_labels_is_refused(motionbench, make_config, tmp_path):
    shards = pack(motionbench, tmp_path, "labels", ["run|jump", "jump|run"])
    with pytest.raises(ValueError, match=r"all videos of split train .* have the same labels \(jump, run\)"):
        Trainer(make_config(f"data.shards={shards}"))


@pytest.mark.parametrize(
    "values",
    [(1e8, 1e8 + 1), (1e-200, 3e-200), (-1e300, 1e300), (1e39, 2e39)],
    ids=["alike", "tiny", "huge", "large"],
)
def test_values_that_32_bits_do_not_tell_apart_are_refused(values):
    samples = [SimpleNamespace(value=value) for value in values]
    shards = SimpleNamespace(task="regression", path="set", samples=lambda split: samples)
    with pytest.raises(
        ValueError, match=r"values of split train in set, .* choose another unit, or subtract"
    ):
        Targets.of_split(shards, "train")


def test_values_of_a_usual_unit_are_taken():
    samples = [SimpleNamespace(value=value) for value in (1.6e9, 1.6e9 + 1e5, -3e-9)]
    shards = SimpleNamespace(task="regression", path="set", samples=lambda split: samples)
    assert Targets.of_split(shards, "train").std > 0


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("augment.label_smoothing=0.1", ("several", "numbers")),
        ("data.sampling=balanced", ("several", "numbers")),
        ("augment.mixup=0.8", ("numbers",)),
        ("augment.cutmix=1", ("numbers",)),
        ("optim.class_weights=balanced", ("numbers",)),
    ],
)
def test_settings_that_are_for_one_class_are_refused(setting, kinds, request, make_config):
    for kind in kinds:
        config = make_config(f"data.shards={request.getfixturevalue(kind)}", setting)
        with pytest.raises(
            ValueError, match=f"{setting.partition('=')[0]}=.* is for videos of one class each"
        ):
            Trainer(config)
        assert not config.run.dir.exists()


def test_a_run_does_not_go_on_with_shards_of_another_kind(several, numbers, make_config):
    settings = ["optim.epochs=0.4", "data.eval_split=none"]
    Trainer(make_config(f"data.shards={several}", *settings)).run()
    with pytest.raises(ValueError, match="holds other packed videos"):
        Trainer(make_config(f"data.shards={numbers}", *settings), resume=True)


def test_a_run_from_weights_of_numbers_in_another_unit_says_the_same_numbers(tmp_path):
    meters, millimeters = Targets("regression", 1.5, 0.5), Targets("regression", 1200.0, 700.0)
    trained = a_classifier(1, ("value",), meters)
    export_model(trained, tmp_path / "hub", format="hub")
    model = create_model("corrnet_tiny", num_classes=1, num_frames=4).eval()
    said = initialize(model, tmp_path / "hub", classes=("value",), new_head=False, targets=millimeters)
    assert "from numbers of mean 1.5 and standard deviation 0.5 to 1200 and 700" in said
    clips = torch.rand(2, 3, 4, 32, 32)
    before = meters.scores(trained.model.eval()(clips))
    torch.testing.assert_close(millimeters.scores(model.eval()(clips)), before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("old", ["multiclass", "multilabel", "regression"])
def test_weights_of_another_task_start_a_run_with_a_new_classifier_alone(old, tmp_path):
    export_model(a_classifier(1, ("value",), Targets(old)), tmp_path / "hub", format="hub")
    new = Targets("regression" if old != "regression" else "multilabel")
    model = create_model("corrnet_tiny", num_classes=1, num_frames=4)
    with pytest.raises(CheckpointError, match=rf"the task of .* is {old}, that of the shards {new.task}: "):
        initialize(model, tmp_path / "hub", classes=("value",), new_head=False, targets=new)
    assert "new: fc.weight" in initialize(
        model, tmp_path / "hub", classes=("value",), new_head=True, targets=new
    )


# --- testing


def test_an_evaluation_of_several_labels_agrees_with_its_own_table(several, tmp_path):
    classifier = a_classifier(3, ("jump", "run", "sit"), Targets("multilabel"))
    result = evaluate(classifier, several, "val", num_clips=2)
    assert isinstance(result, MultilabelResult) and result.num_videos == 8
    table = np.array([[*p.target, *p.scores] for p in result.predictions])
    assert table[:, :3].sum(axis=0).tolist() == [4, 6, 2] and not np.allclose(table[:, 3:].sum(axis=1), 1)
    precisions = []
    for label in range(3):
        order = np.argsort(-table[:, 3 + label], kind="stable")
        right = table[order, label]
        precisions.append((np.cumsum(right) / np.arange(1, 9))[right == 1].mean())
    assert result.score == pytest.approx(np.mean(precisions))
    assert result.video.guess_map == pytest.approx(12 / 24) and result.video.guess_hit1 == 6 / 8
    metrics = pytest.importorskip("sklearn.metrics")
    assert result.score == pytest.approx(metrics.average_precision_score(table[:, :3], table[:, 3:]))


def test_an_evaluation_of_numbers_agrees_with_its_own_table(numbers):
    classifier = a_classifier(1, ("value",), Targets("regression", 1010, 10))
    result = evaluate(classifier, numbers, "val", num_clips=2)
    assert isinstance(result, RegressionResult)
    true, predicted = np.array([[p.target[0], p.scores[0]] for p in result.predictions]).T
    errors = predicted - true
    assert set(true) == {1000, 1010, 1030} and abs(predicted - 1010).max() < 100
    figures = {
        "mae": abs(errors).mean(),
        "rmse": np.sqrt((errors**2).mean()),
        "r2": 1 - (errors**2).sum() / ((true - true.mean()) ** 2).sum(),
    }
    assert result.figures == pytest.approx(figures) and result.score == -result.video.mae
    assert result.video.guess_mae == pytest.approx(abs(true - np.median(true)).mean())
    (place, worst), *_ = result.mistakes(3)
    assert abs(worst.scores[0] - worst.target[0]) == pytest.approx(abs(errors).max(), rel=1e-6)
    assert open_shards(numbers).sample("val", place).source == worst.source


@pytest.mark.parametrize(("knows", "told"), [(3.0, False), (0.0, True)])
def test_labels_that_are_guessed_are_told_from_those_that_are_known(knows, told):
    """The precision of predictions that are shuffled among the videos is what chance reaches."""
    random = np.random.default_rng(0)
    has = random.random((60, 4)) < 0.3
    scores = 1 / (1 + np.exp(-knows * has - random.normal(size=has.shape)))
    predictions = [
        VideoScores("", "", row.astype(float).tolist(), score.tolist())
        for row, score in zip(has, scores, strict=True)
    ]
    classes = ("a", "b", "c", "d")
    result = MultilabelResult(1, 1, [], {}, predictions, label_precision(predictions, classes))
    assert bool(result.chance) == told
    same = [replace(prediction, scores=[0.5] * 4) for prediction in predictions]
    collapsed = MultilabelResult(1, 1, [], {}, same, label_precision(same, classes))
    assert collapsed.chance is not None and "shuffled among the videos reach" in collapsed.chance


@pytest.mark.parametrize(
    ("share", "num_videos", "told"), [(0.5, 40, False), (0.0, 40, True), (-0.5, 40, True), (1.0, 1, True)]
)
def test_numbers_that_are_guessed_are_told_from_those_that_are_known(share, num_videos, told):
    numbers = np.random.default_rng(0).normal(size=num_videos)
    predictions = [VideoScores("", "", [number], [share * number]) for number in numbers]
    result = RegressionResult(1, 1, [], {}, predictions, value_errors(predictions))
    assert bool(result.chance) == told
    assert not told or "and one guess gets" in result.chance


def test_shards_of_another_kind_are_refused(several, numbers):
    classifier = a_classifier(3, ("jump", "run", "sit"), Targets())
    with pytest.raises(
        ValueError, match="the task of the videos is multilabel, that of the model multiclass"
    ):
        evaluate(classifier, several, "val", num_clips=1)
    classifier = a_classifier(1, ("value",), Targets("multilabel"))
    with pytest.raises(
        ValueError, match="the task of the videos is regression, that of the model multilabel"
    ):
        evaluate(classifier, numbers, "val", num_clips=1)


def test_labels_are_named_in_full(several, tmp_path):
    classifier = a_classifier(3, ("jump", "run", "sit"), Targets("multilabel"))
    extract_features(
        classifier, PackedSplit(open_shards(several), "val"), tmp_path / "f.safetensors", num_clips=1
    )
    assert (tmp_path / "f.csv").read_text().count(",run|jump,") == 2
    assert "3, several for each video" in told("inspect", several)


# --- from the command line


def test_from_a_csv_of_several_labels_to_a_page_and_a_prediction(several, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["optim.epochs=1", "data.num_workers=0", "optim.batch_size=8", *SMALL_CLIPS]
    output = told("train", several.parent / "list.csv", *settings)
    assert "augment.label_smoothing" in output and "mAP" in output and "average precision" in output
    run = next((tmp_path / "runs").glob("*/config.yaml")).parent
    record = json.loads((run / "report" / "result.json").read_text())
    assert 0 < record["mean_average_precision"] <= 1
    rows = list(csv.DictReader((run / "report" / "predictions.csv").open()))
    assert len(rows) == 8 and {row["labels"] for row in rows} >= {"jump", "jump|run"}
    assert [row["class"] for row in csv.DictReader((run / "report" / "classes.csv").open())] == [
        "jump",
        "run",
        "sit",
    ]
    page = (run / "report" / "report.html").read_text()
    assert "mAP" in page and "held-out mAP" in page
    video = rows[0]["source"]
    told("predict", run, several.parent / video, "--json", tmp_path / "p.json")
    (predicted,) = json.loads((tmp_path / "p.json").read_text())
    assert set(predicted["probabilities"]) == {"jump", "run", "sit"}


def test_from_a_csv_of_numbers_to_a_page_and_a_prediction(numbers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["optim.epochs=1", "data.num_workers=0", "data.clip.frame_stride=1", "optim.batch_size=8"]
    settings += SMALL_CLIPS
    output = told("train", numbers.parent / "list.csv", *settings)
    assert "MAE of one guess for all" in output
    run = next((tmp_path / "runs").glob("*/config.yaml")).parent
    assert json.loads((run / "report" / "result.json").read_text())["guess_mae"] > 0
    assert not (run / "report" / "classes.csv").exists()
    assert "Predicted and true values" in (run / "report" / "report.html").read_text()
    video = numbers.parent / next(csv.DictReader((run / "report" / "predictions.csv").open()))["source"]
    shown = told("predict", run, video, "--json", tmp_path / "p.json")
    (predicted,) = json.loads((tmp_path / "p.json").read_text())
    assert 900 < predicted["value"] < 1100 and f"value {predicted['value']:.5g}" in shown
    told("predict", run, video, "--hop", "8", "--annotate", tmp_path / "a.mp4", "--json", tmp_path / "w.json")
    assert all(900 < window["value"] < 1100 for window in json.loads((tmp_path / "w.json").read_text()))
    before = numbers.parent / "list.csv"
    changed = tmp_path / "list.csv"
    changed.write_text(before.read_text().replace("1010", "1011"))
    assert "are of another class or value" in told("train", changed, "run.dir=runs/other", "--dry-run")


# --- elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_exported_models_say_the_same(task, tmp_path):
    targets = Targets(task, 1010, 10) if task == "regression" else Targets(task)
    classifier = a_classifier(1, ("value",), targets, name="r2d_tiny")  # exported in a fraction of the time
    clips = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    expected = classifier.clip_scores(clips)
    export_model(classifier, tmp_path / "m.pt2", format="torch")
    program = torch.export.load(tmp_path / "m.pt2").module()
    torch.testing.assert_close(program(clips), expected, rtol=1e-5, atol=1e-5)
    name = json.loads((tmp_path / "m.pt2.json").read_text())["output"]["name"]
    assert name == ("values" if task == "regression" else "probabilities")
    export_model(classifier, tmp_path / "hub", format="hub")
    loaded = VideoClassifier.from_checkpoint(tmp_path / "hub", device="cpu")
    assert loaded.targets == targets and torch.equal(loaded.clip_scores(clips), expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_transformers_knows_the_problem(task, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    for module in ("dynamic_module_utils", "utils.hub"):  # where code of folders is kept
        monkeypatch.setattr(f"transformers.{module}.HF_MODULES_CACHE", str(tmp_path / "cache"), raising=False)
    targets = Targets(task, 1010, 10) if task == "regression" else Targets(task)
    classifier = a_classifier(1, ("value",), targets)
    export_model(classifier, tmp_path / "hub", format="hub")
    model = transformers.AutoModelForVideoClassification.from_pretrained(
        tmp_path / "hub", trust_remote_code=True
    )
    clips = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    pixels = ((clips / 255 - 0.45) / 0.225).transpose(1, 2)
    labels = torch.tensor([[1.0], [0.0]])
    with torch.no_grad():
        made = model(pixels, labels=labels)
    scores = made.logits if task == "regression" else made.logits.sigmoid()
    torch.testing.assert_close(scores, classifier.clip_scores(clips), rtol=1e-4, atol=1e-4)
    plain = scores - labels if task == "regression" else None
    expected = plain.square().mean() if plain is not None else make_loss(targets)(made.logits, labels)
    torch.testing.assert_close(made.loss, expected)
