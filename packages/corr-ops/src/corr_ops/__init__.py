"""Learnable, groupwise, dilated correlation of feature maps ("Video Modeling with Correlation Networks").

Three modules are public beside this one: `corr_ops.compat` stands in for other packages, `corr_ops.convert` converts
trained weights, and `corr_ops.testing` has what tests of an implementation need.
"""

from corr_ops._api import correlation, explain, video_correlation
from corr_ops._backends import Explanation
from corr_ops._decomposition import decompositions
from corr_ops._flops import fvcore_handles
from corr_ops._modules import Correlation, VideoCorrelation

__version__ = "0.1.0"

__all__ = [
    "Correlation",
    "Explanation",
    "VideoCorrelation",
    "correlation",
    "decompositions",
    "explain",
    "fvcore_handles",
    "video_correlation",
]
