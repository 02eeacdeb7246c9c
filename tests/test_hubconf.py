"""PyTorch Hub finds the models of this repository."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import torch
model = torch.hub.load(root, "r2d_tiny", source="local", num_classes=3)
assert model(torch.randn(1, 3, 8, 32, 32)).shape == (1, 3)
import sys
sys.path.insert(0, root)
import corrnet_models, hubconf
names = [name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"]  # as torch.hub.list
assert "R2D" in hubconf.r2d_tiny.__doc__
assert sorted(names) == sorted([*corrnet_models.list_models(), "load_pretrained"]), names
assert corrnet_models.__file__.startswith(root), corrnet_models.__file__
corrnet_models.save_pretrained(model, "saved")
assert torch.hub.load(root, "load_pretrained", "saved", source="local").model.config == model.config
"""


@pytest.mark.slow
def test_models_are_loaded_by_name(tmp_path):
    code = f"root = {str(ROOT)!r}\n{CODE}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
