"""Parameters and multiply-accumulates of the models, beside the figures that the paper prints.

The paper's "GFLOPs" are billions of multiply-accumulates (GMACs) of the convolutions, the correlations
and the classifier for one clip. Normalization, activation, pooling and additions are not counted,
and neither are they here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain

import torch
from torch import nn

import corr_ops
from corrnet_models._config import ModelConfig
from corrnet_models._errors import MissingPackageError
from corrnet_models._network import VideoModel
from corrnet_models._registry import build_model, list_models, model_info

_TRACE_RESOLUTION = 32


@dataclass(frozen=True)
class Complexity:
    """What one clip costs in one model.

    Attributes:
        name: The model's registered name.
        num_frames: Frames of the clip.
        resolution: Height and width of the frames, in pixels.
        num_parameters: Trainable parameters, the classifier's included.
        gmacs: Billions of multiply-accumulates, counted by torch's `FlopCounterMode`.
        gmacs_fvcore: The same, counted by fvcore; None where fvcore is not installed.
        paper_gmacs: The figure printed in the paper; None where it prints none.
    """

    name: str
    num_frames: int
    resolution: int
    num_parameters: int
    gmacs: float
    gmacs_fvcore: float | None
    paper_gmacs: float | None

    @property
    def difference(self) -> float | None:
        """Counted minus printed GMACs; None where the paper prints none."""
        return None if self.paper_gmacs is None else self.gmacs - self.paper_gmacs


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model.

    Args:
        model: Any module.

    Returns:
        The number of values in parameters that require a gradient.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_gmacs(config: ModelConfig, *, resolution: int = 224) -> float:
    """Count the billions of multiply-accumulates of one clip with torch's `FlopCounterMode`.

    The count runs on the meta device: it takes neither memory nor arithmetic.

    Args:
        config: The network.
        resolution: Height and width of the frames, in pixels.

    Returns:
        GMACs: convolutions, correlations and the classifier.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports Triton, for 0.3 s

    model = _meta_model(config)
    clip = torch.empty(_clip_shape(config, resolution), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    flops: int = counter.get_total_flops()
    return flops / 2e9  # it counts a multiply-accumulate as two


def count_gmacs_fvcore(config: ModelConfig, *, resolution: int = 224) -> float:
    """Count the billions of multiply-accumulates of one clip with fvcore.

    fvcore traces a forward pass on real memory. Where the resolution is a multiple of 32 pixels it is
    traced at 32 and all but the classifier is multiplied by the ratio of the areas, which is exact:
    every stride of the net divides both sizes.

    Args:
        config: The network.
        resolution: Height and width of the frames, in pixels.

    Returns:
        GMACs: convolutions, correlations and the classifier.

    Raises:
        ImportError: fvcore is not installed.
    """
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError as error:
        raise MissingPackageError(
            "counting with fvcore needs the extra 'fvcore': pip install 'corrnet-models[fvcore]'"
        ) from error
    model = _meta_model(config).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.zero_()  # what memory happens to hold may be denormal, which is slow
    traced = _TRACE_RESOLUTION if _divides(config, resolution) else resolution
    analysis = FlopCountAnalysis(model, torch.zeros(_clip_shape(config, traced)))
    for operator, handle in corr_ops.fvcore_handles().items():
        analysis.set_op_handle(operator, handle)
    analysis.unsupported_ops_warnings(False).tracer_warnings("none")
    counts = analysis.by_operator()
    counts.pop("batch_norm")
    classifier = counts.pop("linear", 0)  # there is none with num_classes=0
    return float(counts.total() * (resolution / traced) ** 2 + classifier) / 1e9


def complexity_table(
    names: Iterable[str] | None = None, num_frames: Sequence[int] | None = (16, 32)
) -> list[Complexity]:
    """Count models at several clip lengths.

    Args:
        names: Names from `list_models`; None is all of them.
        num_frames: Clip lengths; None is each model's own.

    Returns:
        A row per model and clip length, in the order given.

    Raises:
        ValueError: If there is no such model, or it cannot take such a clip length.
    """
    rows = []
    for info in [model_info(name) for name in (list_models() if names is None else names)]:
        for length in (info.config.num_frames,) if num_frames is None else num_frames:
            config = info.config.replace(num_frames=length)
            fvcore = find_spec("fvcore") is not None
            rows.append(
                Complexity(
                    name=info.name,
                    num_frames=length,
                    resolution=info.resolution,
                    num_parameters=count_parameters(_meta_model(config)),
                    gmacs=count_gmacs(config, resolution=info.resolution),
                    gmacs_fvcore=count_gmacs_fvcore(config, resolution=info.resolution) if fvcore else None,
                    paper_gmacs=info.paper_gmacs.get(length),
                )
            )
    return rows


def markdown_table(rows: Iterable[Complexity]) -> str:
    """Format rows of `complexity_table` as a Markdown table.

    Args:
        rows: The rows, one line each.

    Returns:
        The table, without a line break at its end.
    """
    lines = [
        "| model | frames | size | parameters (M) | GMACs, torch | GMACs, fvcore | paper | difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        digits = 2 if row.gmacs >= 1 else 4
        cells = [
            f"`{row.name}`",
            str(row.num_frames),
            f"{row.resolution}x{row.resolution}",
            f"{row.num_parameters / 1e6:.2f}",
            f"{row.gmacs:.{digits}f}",
            "" if row.gmacs_fvcore is None else f"{row.gmacs_fvcore:.{digits}f}",
            "" if row.paper_gmacs is None else f"{row.paper_gmacs:g}",
            "" if row.difference is None else f"{row.difference:+.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _meta_model(config: ModelConfig) -> VideoModel:
    with torch.device("meta"):
        return build_model(config).eval()


def _clip_shape(config: ModelConfig, resolution: int) -> tuple[int, int, int, int, int]:
    return 1, config.in_channels, config.num_frames, resolution, resolution


def _divides(config: ModelConfig, resolution: int) -> bool:
    stride = config.stem_stride * 16
    return resolution % _TRACE_RESOLUTION == 0 and _TRACE_RESOLUTION % stride == 0
