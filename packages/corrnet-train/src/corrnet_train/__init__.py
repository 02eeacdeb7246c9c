"""Train, evaluate and use CorrNet: what the `corrnet` command does, for Python.

Example:
    >>> config = load_config("motionbench", ["data.shards=shards"])  # doctest: +SKIP
    >>> Trainer(config).run()  # doctest: +SKIP
    >>> classifier = VideoClassifier.from_checkpoint("runs/motionbench")  # doctest: +SKIP
    >>> prediction = classifier.predict("some.mp4")  # doctest: +SKIP
    >>> prediction.classes[0], prediction.scores[0]  # doctest: +SKIP
    >>> evaluate(classifier, "shards", "test").video_top1  # doctest: +SKIP
    >>> extract_features(classifier, ["one.mp4", "a-folder"], "features.npz")  # doctest: +SKIP
    >>> export_model(classifier, "exported", format="hub")  # doctest: +SKIP

Names are imported when they are first used: torch takes longer than the shell waits for a completion.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrnet_train.config.load import load_config
    from corrnet_train.config.schema import RunConfig
    from corrnet_train.evaluation.evaluate import evaluate
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.export import export_model
    from corrnet_train.inference.features import extract_features
    from corrnet_train.training.trainer import Trainer
    from corrnet_train.utils.errors import InputError, MissingPackageError, WorkError

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "MissingPackageError",
    "RunConfig",
    "Trainer",
    "VideoClassifier",
    "WorkError",
    "evaluate",
    "export_model",
    "extract_features",
    "load_config",
]

_HOMES = {
    "InputError": "utils.errors",
    "MissingPackageError": "utils.errors",
    "RunConfig": "config.schema",
    "Trainer": "training.trainer",
    "VideoClassifier": "inference.classifier",
    "WorkError": "utils.errors",
    "evaluate": "evaluation.evaluate",
    "export_model": "inference.export",
    "extract_features": "inference.features",
    "load_config": "config.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
