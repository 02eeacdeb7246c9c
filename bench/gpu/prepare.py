"""What a GPU machine without a network needs: fetches wheels into `wheels/`, then prints the commands to run there.

    python -m bench.gpu.prepare

Run it in `.venv` after `make .venv/developer`, which installs all dependencies. The machine is Linux on x86-64 with
Python 3.12 and with what an image for work with PyTorch has (`IMAGE`). Wheels are those of what the packages depend on
beyond it, by their own metadata, in the versions of constraints.txt. Take the repository there together with the
folder, which git ignores, and paste the commands in the repository's root.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.gpu.stages import SECONDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("corr-ops", "video-data", "corrnet-models", "corrnet-train")
WHEELS = "wheels"
_IMAGE = """
absl-py annotated-doc contourpy cycler fonttools grpcio jinja2 kiwisolver markdown markdown-it-py markupsafe matplotlib
mdurl numpy packaging pillow portalocker protobuf pygments pyparsing python-dateutil pyyaml rich safetensors setuptools
shellingham six tabulate tensorboard tensorboard-data-server torch tqdm triton typer typing-extensions werkzeug
"""
IMAGE = frozenset(_IMAGE.split())
"""Dependencies that are expected on the machine, beside pytest and pytest-xdist."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_MARKERS = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
}
_MINUTE = 60


def missing() -> list[str]:
    """Return what the machine lacks, as "name==version" in the order of names."""
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, found, version = line.partition("==")
        if found:
            pinned[canonicalize_name(name)] = version
    pending = [Requirement(text) for package in PACKAGES for text in _project(package)["dependencies"]]
    done: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in IMAGE or (name, extras) in done:
            continue
        done.add((name, extras))
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            wants = [
                needed.marker is None or needed.marker.evaluate({**_MARKERS, "extra": e})
                for e in ("", *extras)
            ]
            if any(wants):
                pending.append(needed)
    names = {name for name, _ in done} - set(PACKAGES)
    return [f"{name}=={pinned[name]}" for name in sorted(names)]


def fetch(folder: Path) -> None:
    """Fill a folder with the wheels; what there was in it is removed.

    Raises:
        SystemExit: pip got no wheel that fits.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for requirement in missing():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        platforms = [option for name in _PLATFORMS for option in ("--platform", name)]
        download = [*pip, "download", "--no-deps", "--dest", str(folder), "--only-binary=:all:", *platforms]
        download += ["--python-version", "3.12", "--implementation", "cp", requirement]
        done = subprocess.run(download, capture_output=True, check=False)
        if done.returncode:  # none is published: build one
            build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), requirement]
            built = subprocess.run(build, capture_output=True, text=True, check=False)
            name = requirement.partition("==")[0].replace("-", "_")
            if built.returncode or not list(folder.glob(f"{name}-*-none-any.whl")):
                sys.exit(
                    f"pip got no wheel of {requirement} that fits Python 3.12 on Linux: {built.stderr[-500:]}"
                )
        print(requirement, flush=True)


def commands() -> str:
    """Return the commands for the machine, each with a time limit."""
    paths = ["$PWD/.site", *(f"$PWD/packages/{package}/src" for package in PACKAGES), "$PWD"]
    lines = [
        "# What is needed; rows go to OUT.",
        f"python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target .site {WHEELS}/*.whl",
        f'export PYTHONPATH="{":".join(paths)}" OUT="${{OUT:-runs/gpu}}"',
        "# Tests that need a GPU, then the kernels of the operator compiled for it.",
    ]
    for path in sorted(ROOT.glob("packages/*/tests/**/test_*_gpu.py")):
        lines.append(f"timeout {5 * _MINUTE} python3 -m pytest -q {path.relative_to(ROOT)}")
    triton = "packages/corr-ops/tests/test_corr_ops_triton.py"
    lines += [f"timeout {9 * _MINUTE} python3 -m pytest -q -n auto {triton}", "# Measurements."]
    for stage, seconds in SECONDS.items():
        lines.append(f'timeout {seconds + 2 * _MINUTE} python3 -m bench.gpu.stages {stage} --out "$OUT"')
    return "\n".join(lines)


def _project(package: str) -> dict[str, list[str]]:
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, list[str]] = tomllib.loads(text)["project"]
    return project


def main() -> None:
    """Fetch and print."""
    folder = ROOT / WHEELS
    fetch(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{size / 2**20:.0f} MiB in {folder.name}/. On the GPU machine, in the repository's root:\n\n{commands()}"
    )


if __name__ == "__main__":
    main()
