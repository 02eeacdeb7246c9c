"""CorrNet and its R(2+1)D and R2D baselines, by name and by configuration."""

from corrnet_models import _zoo  # noqa: F401  (registers the named models)
from corrnet_models._blocks import CorrelationBlock
from corrnet_models._complexity import (
    Complexity,
    complexity_table,
    count_gmacs,
    count_gmacs_fvcore,
    count_parameters,
    markdown_table,
)
from corrnet_models._config import STAGES, CorrelationConfig, ModelConfig, PretrainedCfg, StageName
from corrnet_models._errors import MissingPackageError, ModelError
from corrnet_models._insertion import FrameByFrame, add_correlation
from corrnet_models._network import FeatureInfo, FeatureInfos, Stage, VideoFeatures, VideoModel, VideoResNet
from corrnet_models._pretrained import (
    PRETRAINED_FILES,
    Pretrained,
    is_pretrained,
    load_pretrained,
    save_pretrained,
    unwrap_names,
)
from corrnet_models._registry import (
    ModelInfo,
    build_model,
    create_model,
    list_models,
    model_config,
    model_info,
    register_model,
)
from corrnet_models._twostream import TwoStreamResNet

__version__ = "0.1.0"

__all__ = [
    "PRETRAINED_FILES",
    "STAGES",
    "Complexity",
    "CorrelationBlock",
    "CorrelationConfig",
    "FeatureInfo",
    "FeatureInfos",
    "FrameByFrame",
    "MissingPackageError",
    "ModelConfig",
    "ModelError",
    "ModelInfo",
    "Pretrained",
    "PretrainedCfg",
    "Stage",
    "StageName",
    "TwoStreamResNet",
    "VideoFeatures",
    "VideoModel",
    "VideoResNet",
    "add_correlation",
    "build_model",
    "complexity_table",
    "count_gmacs",
    "count_gmacs_fvcore",
    "count_parameters",
    "create_model",
    "is_pretrained",
    "list_models",
    "load_pretrained",
    "markdown_table",
    "model_config",
    "model_info",
    "register_model",
    "save_pretrained",
    "unwrap_names",
]
