"""The public names of corr_ops and their signatures: a change here is a change for users."""

import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import corr_ops

README = Path(__file__).parents[1] / "README.md"
PUBLIC = {
    "corr_ops": """
Correlation(channels, *, kernel_size, dilation=1, groups=1, stride=1, padding='same', weight=True)
Correlation.out_channels
Correlation.reset_parameters()
Correlation.forward(base, search)
Correlation.extra_repr()
Explanation(backend, reasons, sentence)
VideoCorrelation(channels, num_frames, *, kernel_size=7, dilation=2, groups=1, searched='previous',
    filters='per_frame')
VideoCorrelation.out_channels
VideoCorrelation.reset_parameters()
VideoCorrelation.forward(x)
VideoCorrelation.set_num_frames(num_frames)
VideoCorrelation.extra_repr()
correlation(base, search, weight=None, *, kernel_size, dilation=1, groups=1, stride=1, padding='same',
    backend='auto')
decompositions()
explain(x, *, backend='auto')
fvcore_handles()
video_correlation(x, weight=None, *, kernel_size, dilation=1, groups=1, searched='previous', backend='auto')
""",
    "corr_ops.compat": """
Correlation(kernel_size=1, max_displacement=1, stride=1, padding=0, dilation=1, dilation_patch=1)
Correlation.forward(input1, input2)
Correlation.extra_repr()
SpatialCorrelationSampler(kernel_size=1, patch_size=1, stride=1, padding=0, dilation=1, dilation_patch=1)
SpatialCorrelationSampler.forward(input1, input2)
SpatialCorrelationSampler.extra_repr()
spatial_correlation_sample(input1, input2, kernel_size=1, patch_size=1, stride=1, padding=0, dilation=1,
    dilation_patch=1)
""",
    "corr_ops.convert": """
channels_from_corrnet(tensor, *, groups, dim=1)
channels_to_corrnet(tensor, *, groups, dim=1)
weight_from_corrnet(filter_weight)
weight_to_corrnet(weight)
""",
    "corr_ops.testing": """
LAGS
Case(*, name, num_clips=2, channels=4, num_frames=3, height=7, width=6, kernel_size=(3, 3), dilation=(1, 1),
    groups=2)
assert_within_budget(actual, *, exact, low_precision)
cases()
make_factors(case, kind, *, dtype, device='cpu')
make_frames(case, *, dtype=torch.float64, device='cpu', seed=0)
make_grad(case, *, dtype, device='cpu')
make_weight(case, *, num_frames, dtype=torch.float64, device='cpu', seed=1)
oracle_correlation(base, search, weight=None, *, kernel_size, dilation=(1, 1), groups=1, dtype=torch.float64)
oracle_results(case, kind, dtype, precision)
oracle_video_correlation(x, weight=None, *, kernel_size, dilation=(1, 1), groups=1, searched='previous',
    dtype=torch.float64)
run_implementation(implementation, factors, grad, case, lag, needed=None)
""",
}
# Reached by benchmarks and by whoever writes an implementation; they may change.
INTERNAL = {"impl", "ops"}


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
    own = [base for base in reversed(thing.__mro__) if base.__module__.startswith("corr_ops.")]
    private = [base for base in own if base is thing or base.__name__.startswith("_")]
    return {key: value for base in private for key, value in vars(base).items() if not key.startswith("_")}


def describe(name: str, thing: object) -> list[str]:
    """Return a line for a name, for a class with its members."""
    lines = [name + signature(thing) if inspect.isroutine(inspect.unwrap(thing)) else name]
    if inspect.isclass(thing):
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
    modules = {module.name for module in pkgutil.iter_modules(corr_ops.__path__) if module.name[0] != "_"}
    assert {f"corr_ops.{name}" for name in modules - INTERNAL} == PUBLIC.keys() - {"corr_ops"}


def test_nothing_else_has_a_public_name() -> None:
    names = {name for name, value in vars(corr_ops).items() if not inspect.ismodule(value)}
    assert {name for name in names if not name.startswith("_")} == set(corr_ops.__all__)
