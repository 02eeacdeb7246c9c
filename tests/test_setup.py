"""The way in: what make installs for whom, and the version of torch that the README names."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text()))


def commands(target: str) -> list[str]:
    """Return what a target of the Makefile runs where nothing is installed."""
    make = shutil.which("make") or pytest.skip("make is not installed")
    result = subprocess.run(
        [make, "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


@pytest.mark.parametrize("target", ["install", "demo"])
def test_users_get_the_packages_and_no_tools_of_developers(target):
    (installing,) = (line for line in commands(target) if "pip install" in line)
    packages = {f"packages/{path.parent.name}" for path in ROOT.glob("packages/*/pyproject.toml")}
    assert set(installing.partition("constraints.txt")[2].split()) == packages | {"-e"}


@pytest.mark.parametrize(
    "target", ["test", "test-quick", "lint", "format", "hooks", "bench", "gate", "bench-report", "mutants"]
)
def test_developers_get_their_tools_after_the_packages(target):
    first, second, *_ = (line for line in commands(target) if "pip install" in line)
    assert "pytest" not in first
    assert {"ruff", "mypy", "pytest-xdist", "'corrnet-train[test]'"} <= set(second.split())


def test_installing_shows_how_far_it_is():
    installing = [line for line in commands("test") if "pip install" in line]
    assert installing and not any(re.search(r" (-q|--quiet)\b", line) for line in installing)


def test_the_readme_names_the_torch_of_the_constraints():
    named = re.findall(r"\btorch==([\d.]+)", (ROOT / "README.md").read_text())
    assert named and set(named) == {CONSTRAINTS["torch"]}
