"""The network that the settings of a run describe."""

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from corrnet_models import CorrelationBlock, ModelError, VideoModel, add_correlation, create_model
from corrnet_train.config.load import explained
from corrnet_train.config.schema import ModelSection, RunConfig
from corrnet_train.networks.by_name import make_network
from corrnet_train.utils.errors import InputError
from video_data import ClipConfig
from video_data.loading.batches import PIXEL_MEAN, PIXEL_STD

_SCALE, _SHIFT = "corrnet_pixel_scale", "corrnet_pixel_shift"
_SMALL = 32  # side in pixels of clips that a network is tried on first: most take any size, and it is quick


def build_from_config(config: RunConfig, num_classes: int, *, from_checkpoint: bool = False) -> nn.Module:
    """Return the model of a run, for its clip length and classes.

    Args:
        config: The run.
        num_classes: Outputs of the classifier.
        from_checkpoint: Whether the settings come from a checkpoint, which its user has not written: it decides on no
            code, see `networks.by_name`.

    Raises:
        InputError: An option of the model has a wrong value, it takes other clips than those of `data.clip`, or does
            not put out a score for each class.
        MissingPackageError: It is of a package that cannot be imported.
    """
    section, clip = config.model, config.data.clip
    if not section.is_of_another_package:
        return _build_own(section, clip, num_classes)
    network = make_network(
        section.name,
        num_classes=num_classes,
        clip=clip,
        options=section.options,
        from_checkpoint=from_checkpoint,
    )
    if section.pixel_mean is not None and section.pixel_std is not None:
        _renormalize(network, section.pixel_mean, section.pixel_std, clip)
    keeps_first_size = any(map(is_lazy, network.parameters()))
    sizes = [clip.crop_size] if keeps_first_size else [min(_SMALL, clip.crop_size), clip.crop_size]
    for size in dict.fromkeys(sizes):
        example = torch.randn(1, clip.num_channels, clip.num_frames, size, size)
        try:
            _check_scores(section.name, network, example, num_classes, clip)
            _insert_blocks(network, section, example)
            break
        except InputError:
            if size == clip.crop_size:
                raise
    return network.train()


def _insert_blocks(network: nn.Module, section: ModelSection, example: Tensor) -> None:
    try:
        add_correlation(network, section.correlation, example)
    except ModelError as error:
        raise InputError(f"model.correlation: {error}") from error


def describe_blocks(name: str, network: nn.Module) -> str:
    """Say which correlation blocks a network of another package has, and how large they are."""
    blocks = {
        path: module for path, module in network.named_modules() if isinstance(module, CorrelationBlock)
    }
    if not blocks:
        return (
            f"{name} has no correlation blocks: model.correlation={{layer3: {{}}}} puts one behind its layer3"
        )
    num_in_blocks = sum(parameter.numel() for block in blocks.values() for parameter in block.parameters())
    num_all = sum(parameter.numel() for parameter in network.parameters())
    return (
        f"{name} with correlation blocks ({', '.join(blocks)}): {num_in_blocks / 1e6:.2f} of its {num_all / 1e6:.2f} M "
        "parameters are in them"
    )


def _build_own(section: ModelSection, clip: ClipConfig, num_classes: int) -> nn.Module:
    try:
        model: VideoModel = create_model(
            section.name, num_frames=clip.num_frames, num_classes=num_classes, **section.options
        )
    except ValidationError as error:
        raise explained(error, "model.options") from None
    model.freeze_stages(section.frozen_stages)
    if model.config.in_channels != clip.num_channels:
        raise InputError(
            f"{section.name} takes {model.config.in_channels} channels, the clips have {clip.num_channels} "
            f"(data.clip.modality={clip.modality}): rgb has 3, flow 2 (model.options.in_channels=2), both 5 "
            "(the two-stream models)"
        )
    return model


def _renormalize(
    network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], clip: ClipConfig
) -> None:
    """Give a network, of clips that are normalized as all are here, those that its weights were made for.

    This is done by a hook, and by buffers that are in no state dict: the names of weights stay.
    """
    if len(mean) != clip.num_channels:
        raise InputError(
            f"model.pixel_mean and model.pixel_std have {len(mean)} values, the clips {clip.num_channels} channels"
        )
    scale = [PIXEL_STD / own for own in std]
    shift = [(PIXEL_MEAN - middle) / own for middle, own in zip(mean, std, strict=True)]
    for name, values in ((_SCALE, scale), (_SHIFT, shift)):
        network.register_buffer(name, torch.tensor(values).view(-1, 1, 1, 1), persistent=False)
    network.register_forward_pre_hook(_rescale)


def _rescale(network: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    (clips,) = inputs
    rescaled: Tensor = clips.float() * network.get_buffer(_SCALE) + network.get_buffer(_SHIFT)
    return rescaled.to(clips.dtype)


def _check_scores(name: str, network: nn.Module, example: Tensor, num_classes: int, clip: ClipConfig) -> None:
    """Run a network once on a clip."""
    try:
        with torch.no_grad():
            scores = network.eval()(example)
    except Exception as error:
        raise InputError(
            f"{name} does not take clips {list(example.shape)} [N, C, L, H, W] (data.clip.num_frames="
            f"{clip.num_frames}, crop_size={clip.crop_size}, modality={clip.modality}): {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (1, num_classes):
        found = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InputError(
            f"{name} puts out {found} for a clip, and not [1, {num_classes}], a score for each class"
        )
