"""Listing the videos of data sets as they are distributed, for `pack_listing` to pack, and MotionBench.

Names are imported when they are first used, as in `video_data`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_data.datasets.csv_file import list_csv
    from video_data.datasets.diving48 import list_diving48
    from video_data.datasets.folder import list_folder
    from video_data.datasets.hmdb51 import list_hmdb51
    from video_data.datasets.kinetics import list_kinetics
    from video_data.datasets.listing import MISSING, SPLIT_NAMES, Entry, Listing
    from video_data.datasets.something import list_something
    from video_data.datasets.sports1m import list_sports1m
    from video_data.datasets.ucf101 import list_ucf101

__all__ = [
    "MISSING",
    "SPLIT_NAMES",
    "Entry",
    "Listing",
    "list_csv",
    "list_diving48",
    "list_folder",
    "list_hmdb51",
    "list_kinetics",
    "list_something",
    "list_sports1m",
    "list_ucf101",
]

_HOMES = {
    "Entry": "listing",
    "Listing": "listing",
    "MISSING": "listing",
    "SPLIT_NAMES": "listing",
    "list_csv": "csv_file",
    "list_diving48": "diving48",
    "list_folder": "folder",
    "list_hmdb51": "hmdb51",
    "list_kinetics": "kinetics",
    "list_something": "something",
    "list_sports1m": "sports1m",
    "list_ucf101": "ucf101",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
