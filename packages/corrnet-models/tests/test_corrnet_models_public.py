"""The public names of corrnet_models and their signatures: a change here is a change for users."""

import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import corrnet_models

README = Path(__file__).parents[1] / "README.md"
PUBLIC = {
    "corrnet_models": """
PRETRAINED_FILES
STAGES
Complexity(name, num_frames, resolution, num_parameters, gmacs, gmacs_fvcore, paper_gmacs)
Complexity.difference
CorrelationBlock(channels, num_frames, config)
CorrelationBlock.forward(x)
CorrelationConfig(*, kernel_size=7, dilation=2, group_size=32, filters='per_frame', searched='previous',
    norm_before='bn', norm_after='none', relu=False, grid=None, token_order='THW', prefix_tokens=0)
FeatureInfo(module, channels, temporal_stride, spatial_stride)
FeatureInfos(iterable=(), /)
FeatureInfos.channels()
FeatureInfos.reduction()
FeatureInfos.module_name()
FrameByFrame(network, num_frames)
FrameByFrame.forward(x)
MissingPackageError
ModelConfig(*, num_frames=32, num_classes=400, in_channels=3, flow_channels=0, stem_width=64,
    stem_kernel_size=7, stem_stride=2, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), temporal_convs=(True,
    True, True, True), temporal_strides=(1, 1, 2, 2), corr_after=(), corr_middle=(), corr_block='sum',
    corr_filters='per_frame', corr_group_size=32, corr_kernel_size=7, corr_dilation=2,
    corr_searched='previous', corr_norm_before='bn', corr_norm_after='none', zero_init_residual=False,
    dropout=0.0)
ModelConfig.temporal_stride
ModelConfig.corr_stages
ModelConfig.fixed_length
ModelConfig.correlation_groups(stage)
ModelConfig.correlation_channels(stage)
ModelConfig.replace(**changes)
ModelError
ModelInfo(name, summary, config, resolution, paper_gmacs=<factory>)
Pretrained(model, classes=(), metadata=<factory>)
PretrainedCfg(*, input_size=None, num_frames=None, fps=None, frame_stride=None, short_side=None, mean=None,
    std=None, num_classes=None, classes=(), license=None, fingerprint=None)
Stage(*args)
Stage.forward(x)
StageName
TwoStreamResNet(config)
TwoStreamResNet.backbones()
VideoFeatures(model, out_indices=None)
VideoFeatures.forward(x)
VideoModel(config, *, num_features)
VideoModel.backbones()
VideoModel.feature_info
VideoModel.forward(x)
VideoModel.forward_features(x, stage='res5')
VideoModel.forward_intermediates(x, indices=None, *, intermediates_only=False)
VideoModel.forward_head(features, pre_logits=False)
VideoModel.get_classifier()
VideoModel.reset_classifier(num_classes)
VideoModel.set_num_frames(num_frames)
VideoModel.freeze_stages(num_stages)
VideoModel.train(mode=True)
VideoModel.set_grad_checkpointing(enable=True)
VideoResNet(config)
VideoResNet.backbones()
add_correlation(model, blocks, example)
build_model(config)
complexity_table(names=None, num_frames=(16, 32))
count_gmacs(config, *, resolution=224)
count_gmacs_fvcore(config, *, resolution=224)
count_parameters(model)
create_model(name, *, pretrained=False, num_frames=None, num_classes=None, features_only=False,
    out_indices=None, **overrides)
is_pretrained(folder)
list_models(pattern=None)
load_pretrained(source, *, revision=None, head=None)
markdown_table(rows)
model_config(name, **overrides)
model_info(name)
register_model(*, resolution=224, paper_gmacs=None)
save_pretrained(model, folder, *, classes=(), metadata=None, card=None, pretrained_cfg=None,
    transformers_config=None)
unwrap_names(state)
""",
}


def signature(function) -> str:
    """Return the parameters with their kinds and defaults, without types."""
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in found.parameters.items()
        if name != "self"
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def members(thing: type) -> dict[str, object]:
    """Return the public members that a class has from this package, without those of its public bases."""
    own = [base for base in reversed(thing.__mro__) if base.__module__.startswith("corrnet_models.")]
    private = [base for base in own if base is thing or base.__name__.startswith("_")]
    return {key: value for base in private for key, value in vars(base).items() if not key.startswith("_")}


def describe(name: str, thing: object) -> list[str]:
    """Return a line for a name, for a class with its members."""
    lines = [name + signature(thing) if inspect.isroutine(inspect.unwrap(thing)) else name]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        lines = [name + signature(thing)]
        for key, value in members(thing).items():
            if inspect.isfunction(value):
                lines.append(f"{name}.{key}{signature(value)}")
            elif isinstance(value, property):
                lines.append(f"{name}.{key}")
    return [part for line in lines for part in textwrap.wrap(line, 110, subsequent_indent="    ")]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_and_signatures(module: str) -> None:
    found = importlib.import_module(module)
    lines = [line for name in found.__all__ for line in describe(name, getattr(found, name))]
    assert lines == PUBLIC[module].strip().splitlines()


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_in_the_readme(module: str) -> None:
    text = README.read_text(encoding="utf-8")
    names = importlib.import_module(module).__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_all_other_modules_are_private_by_name() -> None:
    modules = {
        module.name for module in pkgutil.iter_modules(corrnet_models.__path__) if module.name[0] != "_"
    }
    # huggingface needs transformers; its test has its names.
    public = {*PUBLIC, "corrnet_models.huggingface"} - {"corrnet_models"}
    assert {f"corrnet_models.{name}" for name in modules} == public


def test_nothing_else_has_a_public_name() -> None:
    names = {name for name, value in vars(corrnet_models).items() if not inspect.ismodule(value)}
    assert {name for name in names if not name.startswith("_")} == set(corrnet_models.__all__)
