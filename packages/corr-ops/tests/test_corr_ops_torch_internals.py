"""The private names of PyTorch: which versions have them, and what happens where one is missing."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corr_ops import _torch_internals

SOURCES = Path(_torch_internals.__file__).parent
# Each name with whether its absence leaves gradients outside torch.func working.
NAMES = {
    ("torch._C", "_AutoDispatchBelowAutograd"): False,
    ("torch._C", "_are_functorch_transforms_active"): False,
    ("torch._C", "_is_fwd_grad_enabled"): True,
    ("torch.autograd.forward_ad", "_set_fwd_grad_enabled"): True,
    ("torch._VF", "_unpack_dual"): True,
    ("torch._functorch.utils", "enable_single_level_autograd_function"): True,
}
# Each script runs in a process of its own, forked from one that has imported and compiled what PyTorch needs.
FORKS = """
import contextlib, os, sys, torch, traceback
torch.compile(torch.sin, backend="aot_eager")(torch.rand(2, requires_grad=True)).sum().backward()
for number, script in enumerate({scripts!r}):
    child = os.fork()
    if child == 0:
        with open(f"{{number}}.txt", "w") as file, contextlib.redirect_stdout(file):
            try:
                exec(script, {{}})
            except BaseException:
                traceback.print_exc(file=file)
        os._exit(0)
    os.waitpid(child, 0)
"""
# Imports the package while a name is missing. PyTorch itself keeps it.
WITHOUT = """
import sys, torch

class Without:
    def __init__(self, module, name):
        self.__dict__.update(of=module, missing=name)
    def __getattr__(self, name):
        if name == self.missing:
            raise AttributeError(name)
        return getattr(self.of, name)

module, name = {module!r}, {name!r}
whole = sys.modules[module]
sys.modules[module] = Without(whole, name)
import corr_ops
sys.modules[module] = whole

def refused(function, *args):
    try:
        function(*args)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no error")

x = torch.rand(1, 2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
operator = lambda x: corr_ops.video_correlation(x, kernel_size=3).square().sum()
nested = lambda x: torch.func.jvp(lambda y: torch.func.jvp(operator, (y,), (y,))[1], (x,), (x,))
"""
GRADIENTS_WORK = """
operator(x).backward()
assert torch.autograd.gradcheck(operator, x)
torch.compile(operator, fullgraph=True, backend="aot_eager")(x).backward()
print(refused(nested, x.detach()))
"""
NO_DERIVATIVES = """
with torch.inference_mode():
    operator(x)
print(refused(operator, x))
"""


def test_versions_that_the_names_were_tested_with() -> None:
    """Fails with another PyTorch: when this file and the table of what is supported pass there, add its version."""
    major, minor, *_ = torch.__version__.split(".")
    assert f"{major}.{minor}" in _torch_internals.TESTED_WITH


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_names_are_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_no_other_file_has_private_names() -> None:
    used = re.compile(r"torch\.(?:\w+\.)*_[a-zA-Z]\w*|from torch\.?\S* import .*\b_[a-z]\w*|super\(torch")
    files = [file for file in sorted(SOURCES.rglob("*.py")) if used.search(file.read_text(encoding="utf-8"))]
    assert [file.name for file in files] == ["_torch_internals.py"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Return what the script prints without each name."""
    folder = tmp_path_factory.mktemp("outputs")
    scripts = [
        WITHOUT.format(module=module, name=name) + (GRADIENTS_WORK if outside else NO_DERIVATIVES)
        for (module, name), outside in NAMES.items()
    ]
    subprocess.run([sys.executable, "-c", FORKS.format(scripts=scripts)], cwd=folder, check=True, timeout=300)
    return {name: (folder / f"{number}.txt").read_text() for number, name in enumerate(NAMES)}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_missing_name_is_told_where_it_is_needed_and_the_rest_works(
    module: str, name: str, outputs: dict[tuple[str, str], str]
) -> None:
    works = (
        "calls, gradients and torch.compile work, the transforms of torch.func do not"
        if NAMES[module, name]
        else "calls under torch.inference_mode() work"
    )
    assert outputs[module, name].strip() == (
        f"PyTorch {torch.__version__} has no {module}.{name}, which the derivatives of corr-ops need: {works}. "
        f"corr-ops is tested with PyTorch {', '.join(_torch_internals.TESTED_WITH)}."
    )
