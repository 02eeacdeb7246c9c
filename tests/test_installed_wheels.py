"""Each package builds into a wheel and works with only that wheel and its declared dependencies, in old versions.

With the newest ones all four work together. There every test module is imported, and those tests run that between them
use each dependency and extra. torch is the release that the tests run with, since others take gigabytes.
CORRNET_TEST_PYTHON names another Python to try.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("CORRNET_TEST_PYTHON", sys.executable)
UV = [sys.executable, "-m", "uv"]
# One environment a chain: a package's tests run before anything that depends on it is installed.
CHAINS = {"data": ["video-data"], "training": ["corr-ops", "corrnet-models", "corrnet-train"]}
# The README's examples and, of each dependency and extra, a use; what else the tests say does not depend on how the
# package came here.
TESTS = {
    "video-data": [
        "test_video_data_adapters",
        "test_video_data_flow",
        "test_s3",
        "test_shards_index_and_manifest_describe_each_other",
        "test_views_are_uniformly_spaced_clips",
    ],
    "corr-ops": [f"test_corr_ops_{name}" for name in ("import", "readme", "flops")],
    "corrnet-models": [
        *(f"test_corrnet_models_{name}" for name in ("readme", "config", "pretrained")),
        "test_fvcore_agrees_with_torch_where_the_strides_do_not_divide_the_frame",
    ],
    "corrnet-train": [
        f"test_corrnet_train_{name}" for name in ("augment", "checkpoint", "config", "drawing")
    ],
}
# What a package must be able to do without its extras and without what the tests take.
ALONE = {
    "video-data": "import video_data; "
    "config = video_data.MotionBenchConfig(num_train=8, num_val=8, num_test=8);"
    "video_data.generate_motionbench('videos', config, num_workers=1, progress=False);"
    "video_data.pack_csv('videos/motionbench.csv', 'shards', progress=False)",
    "corr-ops": "import corr_ops, torch; corr_ops.video_correlation(torch.ones(1, 2, 2, 4, 4), kernel_size=3)",
    "corrnet-models": "from corrnet_models import create_model, load_pretrained, save_pretrained;"
    "save_pretrained(create_model('r2d_tiny'), 'model'); load_pretrained('model')",
    "corrnet-train": "import corrnet_train.cli",
}


def run(command: list, **options) -> str:
    # Where Python may keep what it compiles, the second process does not compile all of torch again.
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def oldest_versions(wheels: Path) -> Iterator[str]:
    """Yield the oldest version that the wheels allow of each of their dependencies, those of extras included."""
    own = {path.name.split("-")[0].replace("_", "-") for path in wheels.glob("*.whl")}
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as file:
            (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Metadata.from_email(file.read(name), validate=False)
        for requirement in metadata.requires_dist or []:
            bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
            if requirement.name not in own | {"torch"}:
                assert bounds, f"{wheel.name} takes any {requirement.name}, however old"
                yield f"{requirement.name}=={bounds[0]}"


class Environment:
    """A virtual environment of its own, with one release of torch and some versions of other packages."""

    def __init__(self, folder: Path, versions: Iterable[str] = ()) -> None:
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join({f"torch=={version('torch').partition('+')[0]}", *versions}))
        run([*UV, "venv", "--quiet", "--python", PYTHON, folder / "venv"])
        self._folder = folder
        self.python = folder / "venv" / "bin" / "python"
        links = os.environ.get("PIP_FIND_LINKS")  # where pip would take a torch of this machine from
        self._install = [*UV, "pip", "install", "--quiet", "--python", self.python, "-c", constraints]
        self._install += ["--find-links", links] if links else []

    def install(self, *what: str | Path) -> None:
        run([*self._install, *what])

    def test(self, *packages: str) -> None:
        """Run the tests of packages in one process, which imports all modules of them: what one lacks fails here."""
        names = [name for package in packages for name in TESTS[package]]
        folders = [ROOT / "packages" / package / "tests" for package in packages]
        files = [path for folder in folders for path in folder.rglob("test_*.py")]
        there = "".join(f"{path.name}\n{path.read_text()}" for path in files)
        assert not [name for name in names if name not in there]
        command = [self.python, "-m", "pytest", "-q", "-m", "not slow", "-k", " or ".join(names)]
        command += ["--import-mode=importlib", "-p", "no:cacheprovider"]
        # With another root pytest would take the folder tests/datasets for the package of that name.
        printed = run([*command, "-c", os.devnull, f"--rootdir={ROOT}", *folders], cwd=self._folder)
        assert " passed" in printed


def wheel_of(wheels: Path, package: str) -> Path:
    (wheel,) = wheels.glob(f"{package.replace('-', '_')}-*.whl")
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["training", "data"])
def test_packages_work_when_installed_alone_with_the_oldest_dependencies(wheels, tmp_path, chain):
    environment = Environment(tmp_path, oldest_versions(wheels))
    for package in CHAINS[chain]:
        wheel = wheel_of(wheels, package)
        needed = [wheel_of(wheels, "video-data")] if package == "corrnet-train" else []
        environment.install(wheel, *needed)
        run([environment.python, "-c", ALONE[package]], cwd=tmp_path)
        environment.install(f"{wheel}[test]")
        environment.test(package)


@pytest.mark.slow
def test_packages_work_together_with_the_newest_dependencies(wheels, tmp_path):
    environment = Environment(tmp_path)
    environment.install(*(f"{wheel_of(wheels, package)}[test]" for package in TESTS))
    environment.test(*TESTS)


@pytest.mark.slow
def test_wheels_hold_code_and_license_but_no_tests(wheels):
    for package in ("corr_ops", "video_data", "corrnet_models", "corrnet_train"):
        (wheel,) = wheels.glob(f"{package}-*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{package}/py.typed" in names
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not any("test" in Path(name).name for name in names if not name.startswith("corr_ops/testing"))
