"""Videos to shards to clips: packing, a deterministic order of samples, and decoding for video training.

`generate_motionbench` makes a small data set; `pack_folder` and `pack_csv` write shards; `open_shards` reads them;
`train_loader` and `eval_loader` give batches of clips. All else is imported from its room: `datasets` lists the videos
of known data sets for `pack_listing`, `media` opens single videos, `shards` has the files and the reports on them,
`loading` the parts of batches and live streams, `integrations` the way to `webdataset` and `datasets`. Modules whose
names begin with `_` belong to this package alone. The package knows nothing of models.

Names are imported when they are first used: torch takes longer than people wait for `corrnet --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_data.datasets.motionbench import generate_motionbench
    from video_data.datasets.motionbench_config import MotionBenchConfig
    from video_data.loading.batches import Batch, ViewBatch, normalize
    from video_data.loading.train import LoaderState, TrainLoader, train_loader
    from video_data.loading.views import decode_views, eval_loader
    from video_data.media.limits import VideoError
    from video_data.packing.pack import PackReport, merge_parts, pack_csv, pack_folder, pack_listing
    from video_data.sampling.clips import ClipConfig
    from video_data.shards.inspect import inspect_shards
    from video_data.shards.pack_options import PackOptions
    from video_data.shards.reader import ShardError, ShardSet, open_shards
    from video_data.shards.thumbnails import sample_thumbnails
    from video_data.shards.verify import verify_shards
    from video_data.utils.errors import InputError, MissingPackageError, RemoteError, WorkError
    from video_data.utils.workers import suggest_num_workers

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ClipConfig",
    "InputError",
    "LoaderState",
    "MissingPackageError",
    "MotionBenchConfig",
    "PackOptions",
    "PackReport",
    "RemoteError",
    "ShardError",
    "ShardSet",
    "TrainLoader",
    "VideoError",
    "ViewBatch",
    "WorkError",
    "decode_views",
    "eval_loader",
    "generate_motionbench",
    "inspect_shards",
    "merge_parts",
    "normalize",
    "open_shards",
    "pack_csv",
    "pack_folder",
    "pack_listing",
    "sample_thumbnails",
    "suggest_num_workers",
    "train_loader",
    "verify_shards",
]

_HOMES = {
    "Batch": "loading.batches",
    "ClipConfig": "sampling.clips",
    "InputError": "utils.errors",
    "LoaderState": "loading.train",
    "MissingPackageError": "utils.errors",
    "MotionBenchConfig": "datasets.motionbench_config",
    "PackOptions": "shards.pack_options",
    "PackReport": "packing.pack",
    "RemoteError": "utils.errors",
    "ShardError": "shards.reader",
    "ShardSet": "shards.reader",
    "TrainLoader": "loading.train",
    "VideoError": "media.limits",
    "ViewBatch": "loading.batches",
    "WorkError": "utils.errors",
    "decode_views": "loading.views",
    "eval_loader": "loading.views",
    "generate_motionbench": "datasets.motionbench",
    "inspect_shards": "shards.inspect",
    "merge_parts": "packing.pack",
    "normalize": "loading.batches",
    "open_shards": "shards.reader",
    "pack_csv": "packing.pack",
    "pack_folder": "packing.pack",
    "pack_listing": "packing.pack",
    "sample_thumbnails": "shards.thumbnails",
    "suggest_num_workers": "utils.workers",
    "train_loader": "loading.train",
    "verify_shards": "shards.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
