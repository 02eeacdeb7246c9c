"""Listing the videos of data sets as they are distributed, for `pack_listing` to pack, and MotionBench."""

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
