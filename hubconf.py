"""Models for PyTorch Hub: `torch.hub.load(REPOSITORY, "corrnet26", num_classes=10)`; options are `create_model`'s.

`torch.hub.load(REPOSITORY, "load_pretrained", source)` loads what `save_pretrained` wrote.
"""

import pathlib
import sys

dependencies = ["numpy", "pydantic", "safetensors", "torch"]

for _package in ("corr-ops", "corrnet-models"):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "packages" / _package / "src"))

import corrnet_models  # noqa: E402  (of this repository)


def _entry(name: str):  # type: ignore[no-untyped-def]
    def make(**options):  # type: ignore[no-untyped-def]
        return corrnet_models.create_model(name, **options)

    make.__name__ = name
    make.__doc__ = f"{corrnet_models.model_info(name).summary}\n\nOptions: those of `create_model`."
    return make


globals().update({name: _entry(name) for name in corrnet_models.list_models()})
load_pretrained = corrnet_models.load_pretrained
