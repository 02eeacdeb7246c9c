"""Paths are text or a `Path`, whoever asks for them."""

import collections.abc
import importlib
import inspect
import types
import typing
from pathlib import Path

import pytest

PACKAGES = ("video_data", "video_data.datasets", "corrnet_models", "corrnet_train")


def kinds(annotation):
    """All types that a type is made of; of functions those are left out that they are called with."""
    origin = typing.get_origin(annotation)
    if origin is collections.abc.Callable:
        return []
    parts = typing.get_args(annotation) if origin or isinstance(annotation, types.UnionType) else ()
    return [annotation, *(kind for part in parts for kind in kinds(part))]


def public_functions():
    for name in PACKAGES:
        package = importlib.import_module(name)
        for public in package.__all__:
            value = getattr(package, public)
            if inspect.isfunction(value):
                yield pytest.param(value, id=f"{name}.{public}")
            elif inspect.isclass(value) and value.__module__.startswith(PACKAGES):
                for method in vars(value):
                    function = inspect.unwrap(getattr(value, method))
                    if inspect.isroutine(function) and not method.startswith("_"):
                        yield pytest.param(function, id=f"{name}.{public}.{method}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_where_a_path_is_taken_text_is_too(function):
    for parameter in inspect.signature(function).parameters.values():
        found = kinds(parameter.annotation)
        assert str in found or Path not in found, parameter


def test_the_functions_that_take_paths_are_found():
    names = {param.id for param in public_functions() if "Path" in str(inspect.signature(param.values[0]))}
    assert {"video_data.decode_views", "corrnet_models.load_pretrained", "corrnet_train.load_config"} <= names
