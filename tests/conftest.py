"""What tests of several files take: the wheels of the packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
UV = [sys.executable, "-m", "uv"]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the wheels of all packages, built once for all processes of the tests.

    Their kernels are not optimized, which takes 2 seconds rather than 40: those of `pip install -e`, which all
    other tests use, are.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheels"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            build = [*UV, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", unfinished]
            for package in sorted((ROOT / "packages").iterdir()):
                subprocess.run([*build, package], check=True, env={**os.environ, "CFLAGS": "-O0"})
            unfinished.rename(folder)
    return folder
