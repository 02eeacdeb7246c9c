"""The arrows between the packages: train -> models -> ops, train -> data; never back, sideways or to private names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


LINT = [
    sys.executable,
    "-c",
    "from importlinter.cli import lint_imports_command as main; main()",
    "--no-cache",
]


def test_packages_import_only_along_the_arrows():
    result = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("package", "imported"),
    [
        ("corr-ops/src/corr_ops", "corrnet_models"),
        ("video-data/src/video_data", "corr_ops"),
        ("corrnet-models/src/corrnet_models", "corr_ops.ops"),
        ("corrnet-train/src/corrnet_train", "corrnet_models._config"),
        ("corrnet-train/src/corrnet_train/utils", "corrnet_train.training.step"),
        ("corrnet-train/src/corrnet_train/report/figures", "corrnet_train.report.pages.render"),
    ],
)
def test_an_import_against_the_arrows_is_found(tmp_path, package, imported):
    shutil.copytree(
        ROOT / "packages", tmp_path / "packages", ignore=shutil.ignore_patterns("__pycache__", "tests")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    offender = tmp_path / "packages" / package / "offender.py"
    offender.write_text(f"import {imported}\n")
    paths = [str(path) for path in (tmp_path / "packages").glob("*/src")]
    result = subprocess.run(
        LINT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(paths)},
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "offender" in result.stdout


def test_corr_ops_imports_without_optional_packages():
    code = (
        "import sys\n"
        "for name in ('triton', 'fvcore', 'matplotlib'): sys.modules[name] = None\n"
        "import corr_ops\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
