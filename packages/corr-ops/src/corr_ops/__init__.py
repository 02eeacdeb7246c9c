"""Learnable, groupwise, dilated correlation of feature maps ("Video Modeling with Correlation Networks")."""

from corr_ops.api import correlation, explain, video_correlation
from corr_ops.decomposition import decompositions
from corr_ops.flops import fvcore_handles
from corr_ops.modules import Correlation, VideoCorrelation

__version__ = "0.1.0"

__all__ = [
    "Correlation",
    "VideoCorrelation",
    "correlation",
    "decompositions",
    "explain",
    "fvcore_handles",
    "video_correlation",
]
