"""Videos to shards to clips: packing, a deterministic order of samples, and decoding for video training.

`generate_motionbench` makes a small data set; `pack_folder`, `pack_csv` and, for what the `list_...` functions list,
`pack_listing` write shards; `open_shards` reads them; `train_loader` and `test_loader` give batches of clips. The
package knows nothing of models.
"""

from video_data.adapters import pack_hf_dataset, to_hf_dataset, webdataset_pipeline
from video_data.batches import (
    PIXEL_MEAN,
    PIXEL_STD,
    Batch,
    Replacement,
    Unreadable,
    ViewBatch,
    ViewStart,
    normalize,
)
from video_data.budget import ErrorBudget
from video_data.clips import ClipConfig
from video_data.inspection import Inspection, Thumbnails, inspect_shards, sample_thumbnails
from video_data.live import WindowFrame, open_frames, sliding_clips
from video_data.loader import LoaderState, TrainLoader, train_loader
from video_data.manifest import Manifest, PackOptions, SampleRecord
from video_data.motionbench import MOTIONBENCH_CLASSES, MotionBenchConfig, generate_motionbench
from video_data.pack import PackReport, merge_parts, pack_csv, pack_folder, pack_listing
from video_data.pictures import PICTURE_SUFFIXES
from video_data.probe import VIDEO_SUFFIXES, VideoError, VideoInfo, probe_video
from video_data.shards import ShardError, ShardSet, open_shards
from video_data.sources import (
    MISSING,
    Entry,
    Listing,
    list_csv,
    list_diving48,
    list_folder,
    list_hmdb51,
    list_kinetics,
    list_something,
    list_sports1m,
    list_ucf101,
)
from video_data.tars import tar_samples
from video_data.verify import Problem, VerifyReport, verify_shards
from video_data.views import decode_timed_views, decode_views, test_loader
from video_data.workers import suggest_num_workers
from video_data.yuv import PlaneLayout, YuvClips, to_rgb

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "MOTIONBENCH_CLASSES",
    "PICTURE_SUFFIXES",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "VIDEO_SUFFIXES",
    "Batch",
    "ClipConfig",
    "Entry",
    "ErrorBudget",
    "Inspection",
    "Listing",
    "LoaderState",
    "Manifest",
    "MotionBenchConfig",
    "PackOptions",
    "PackReport",
    "PlaneLayout",
    "Problem",
    "Replacement",
    "SampleRecord",
    "ShardError",
    "ShardSet",
    "Thumbnails",
    "TrainLoader",
    "Unreadable",
    "VerifyReport",
    "VideoError",
    "VideoInfo",
    "ViewBatch",
    "ViewStart",
    "WindowFrame",
    "YuvClips",
    "decode_timed_views",
    "decode_views",
    "generate_motionbench",
    "inspect_shards",
    "list_csv",
    "list_diving48",
    "list_folder",
    "list_hmdb51",
    "list_kinetics",
    "list_something",
    "list_sports1m",
    "list_ucf101",
    "merge_parts",
    "normalize",
    "open_frames",
    "open_shards",
    "pack_csv",
    "pack_folder",
    "pack_hf_dataset",
    "pack_listing",
    "probe_video",
    "sample_thumbnails",
    "sliding_clips",
    "suggest_num_workers",
    "tar_samples",
    "test_loader",
    "to_hf_dataset",
    "to_rgb",
    "train_loader",
    "verify_shards",
    "webdataset_pipeline",
]
