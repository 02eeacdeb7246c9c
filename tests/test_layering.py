"""The arrows between the packages: train -> models -> ops, train -> data; never back, sideways or to private names."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("corr_ops", "video_data", "corrnet_models", "corrnet_train")


LINT = [
    sys.executable,
    "-c",
    "from importlinter.cli import lint_imports_command as main; main()",
    "--no-cache",
]


AGAINST = {
    "corr-ops/src/corr_ops": "corrnet_models",
    "video-data/src/video_data/utils": "corr_ops",
    "corrnet-models/src/corrnet_models": "corr_ops.ops",
    "corrnet-train/src/corrnet_train/cli": "corrnet_models._config",
    "corrnet-train/src/corrnet_train/utils": "corrnet_train.training.step",
    "corrnet-train/src/corrnet_train/report/figures": "corrnet_train.report.pages.render",
}


def test_packages_import_only_along_the_arrows():
    result = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_imports_against_the_arrows_are_found(tmp_path):
    shutil.copytree(
        ROOT / "packages",
        tmp_path / "packages",
        ignore=shutil.ignore_patterns("__pycache__", "tests", "*.so"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, imported in AGAINST.items():
        path = tmp_path / "packages" / package / "offender.py"
        path.write_text(f"import {imported}\n")
    paths = [str(path) for path in (tmp_path / "packages").glob("*/src")]
    result = subprocess.run(
        LINT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(paths)},
    )
    assert result.returncode == 1, result.stdout + result.stderr
    for package, imported in AGAINST.items():
        module = package.partition("/src/")[2].replace("/", ".")
        assert f"{module}.offender -> {imported}" in result.stdout


def test_no_package_imports_a_private_name_of_another():
    found = []
    for path in (ROOT / "packages").glob("*/src/*/**/*.py"):
        own = path.relative_to(ROOT / "packages").parts[2]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            package, *modules = node.module.split(".")
            names = [*modules, *(alias.name for alias in node.names)]
            if package in PACKAGES and package != own and any(name.startswith("_") for name in names):
                found.append(f"{path.relative_to(ROOT)}: {node.module} {names}")
    assert not found


def test_corr_ops_imports_without_optional_packages():
    code = (
        "import sys\n"
        "for name in ('triton', 'fvcore', 'matplotlib'): sys.modules[name] = None\n"
        "import corr_ops\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
