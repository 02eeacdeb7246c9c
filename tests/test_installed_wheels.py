"""Each package builds into a wheel and works with only that wheel and its declared dependencies.

There every test module is imported, and the tests run that between them use each dependency and extra.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# One environment a chain: a package's tests run before anything that depends on it is installed.
CHAINS = {"video": ["video-data"], "models": ["corr-ops", "corrnet-models"]}
TESTS = {
    "video-data": ["adapters", "pack", "loader", "flow"],
    "corr-ops": ["import", "readme", "errors", "registration", "flops"],
    "corrnet-models": ["readme", "config", "counts"],
}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for package in sorted((ROOT / "packages").iterdir()):
        run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, package])
    return folder


def run(command: list, **options) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_packages_work_when_installed_alone(wheels, tmp_path, chain):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    for package in CHAINS[chain]:
        (wheel,) = wheels.glob(f"{package.replace('-', '_')}-*.whl")
        pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        run([*pip, "-c", ROOT / "constraints.txt", f"{wheel}[test]"])
        tests = ROOT / "packages" / package / "tests"
        stem = f"test_{package.replace('-', '_')}"
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow",
            "--import-mode=importlib",
            "-c",
            os.devnull,
        ]
        assert " tests collected" in run([*command, "--collect-only", tests], cwd=tmp_path)
        chosen = [next(tests.rglob(f"{stem}_{name}.py")) for name in TESTS[package]]
        assert " passed" in run([*command, *chosen], cwd=tmp_path)


@pytest.mark.slow
def test_wheels_hold_code_and_license_but_no_tests(wheels):
    import zipfile

    for package in ("corr_ops", "video_data", "corrnet_models", "corrnet_train"):
        (wheel,) = wheels.glob(f"{package}-*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{package}/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not any("test" in Path(name).name for name in names if not name.startswith("corr_ops/testing"))
