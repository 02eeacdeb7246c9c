"""The public names of the package and how they are called: a change of them is a change for users."""

import inspect
import subprocess
import sys

import pytest

import corrnet_train
from corrnet_train import evaluate, export_model, extract_features

SIGNATURES = {
    "Trainer": "config, *, resume, requeue, extend, console, ranks",
    "Trainer.run": "self",
    "VideoClassifier": "model, *, classes, clip, device, precision, num_clips, pixels, targets",
    "VideoClassifier.from_checkpoint": "path, *, device, like",
    "VideoClassifier.predict": "self, source, *, num_clips",
    "VideoClassifier.video_scores": "self, views",
    "VideoClassifier.clip_scores": "self, video",
    "VideoClassifier.clip_features": "self, video, *, stage",
    "evaluate": (
        "classifier, shards, split, *, num_clips, num_crops, batch_size, num_workers, on_batch, ranks, journal, "
        "stop, timeout"
    ),
    "export_model": "classifier, path, *, format, overwrite, evaluation",
    "extract_features": "classifier, videos, path, *, num_clips, per_clip, stage, num_workers, overwrite, on_video",
    "load_config": "recipe, overrides",
}


def parameters(dotted):
    name, _, method = dotted.partition(".")
    function = getattr(corrnet_train, name)
    names = []
    for parameter in inspect.signature(getattr(function, method) if method else function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    return ", ".join(names)


def test_the_public_names_are_these():
    errors = {"InputError", "MissingPackageError", "WorkError"}
    assert set(corrnet_train.__all__) == {
        "RunConfig",
        *errors,
        *(name for name in SIGNATURES if "." not in name),
    }
    assert set(corrnet_train.__all__) <= set(dir(corrnet_train))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = corrnet_train.nothing


@pytest.mark.parametrize("name", SIGNATURES)
def test_they_are_called_like_this(name):
    assert parameters(name) == SIGNATURES[name]


def test_the_settings_of_a_run_are_these():
    fields = {
        name: set(field.annotation.model_fields)
        for name, field in corrnet_train.RunConfig.model_fields.items()
    }
    assert fields == {
        "model": {
            "name", "options", "init_from", "new_head", "frozen_stages", "correlation", "pixel_mean", "pixel_std",
        },
        "data": {"shards", "train_split", "eval_split", "clip", "num_workers", "error_budget", "pixels", "sampling"},
        "augment": {"rand_augment", "mixup", "cutmix", "label_smoothing", "repeats"},
        "optim": {
            "class_weights",
            "name", "lr", "lr_batch_size", "lr_scaling", "layer_decay", "momentum", "weight_decay", "batch_size",
            "epochs", "samples_per_epoch", "warmup_epochs", "clip_grad_norm", "ema_decay",
        },
        "train": {
            "micro_batch", "batch_norm", "parallel", "keep_every", "timeout", "channels_last", "compile",
            "grad_checkpointing",
        },
        "eval": {"num_clips", "batch_size", "every_epochs", "num_clips_training", "patience", "precise_bn",
                     "after_training"},
        "run": {"dir", "seed", "device", "precision", "checkpoint_every", "log_every", "wandb", "deterministic"},
    }  # fmt: skip


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, corrnet_train; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_paths_may_be_strings(motionbench, model_folder, tmp_path):
    classifier = corrnet_train.VideoClassifier.from_checkpoint(str(model_folder), device="cpu")
    video = next(motionbench[0].rglob("*.mp4"))
    assert classifier.predict(str(video), num_clips=2) == classifier.predict(video, num_clips=2)
    shards, journal = str(motionbench[1]), tmp_path / "journal"
    result = evaluate(classifier, shards, "val", num_clips=1, journal=str(journal))
    assert result.num_videos == 8 and journal.is_file()
    features = extract_features(classifier, [str(video), video], str(tmp_path / "a.npz"), num_clips=1)
    assert features.num_rows == 2
    features = extract_features(classifier, str(video.parent), str(tmp_path / "b.npz"), num_clips=1)
    assert features.num_rows == len(list(video.parent.glob("*.mp4")))
    exported = export_model(classifier, str(tmp_path / "exported"), format="hub")
    assert exported.path == tmp_path / "exported"
