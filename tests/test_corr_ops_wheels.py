"""The wheels of corr-ops: with kernels for a platform, without any for all, and what each says of itself."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "packages" / "corr-ops"
LIBRARY = "corr_ops/impl/cpu/_correlation.so"
SCRIPT = """
import warnings, torch, corr_ops
assert corr_ops.__file__.startswith({folder!r})
x = torch.arange(2 * 4 * 3 * 5 * 5.0).reshape(2, 4, 3, 5, 5) / 100
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    outs = [corr_ops.video_correlation(x, kernel_size=3, groups=2) for _ in range(3)]
expected = corr_ops.video_correlation(x, kernel_size=3, groups=2, backend="reference")
torch.testing.assert_close(outs, [expected] * 3)
print(len([w for w in caught if "corr-ops" in str(w.message)]), *[w.message for w in caught])
print(corr_ops.explain(x))
"""


def build(source: Path, dest: Path, *, kind: str = "--wheel", **variables: str) -> Path:
    """Build a distribution, in little time without optimizing the kernels, and return it."""
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(dest), str(source)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CFLAGS": "-O0", **variables}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = dest.iterdir()
    return built


def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def call_unpacked(wheel: Path, folder: Path) -> list[str]:
    """Call the operator of a wheel in a new process; return how often it warned and what `explain` said."""
    zipfile.ZipFile(wheel).extractall(folder)
    return call(folder)


def call(folder: Path) -> list[str]:
    command = [sys.executable, "-c", SCRIPT.format(folder=str(folder))]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_wheel_has_kernels_and_serves_every_python(wheels, tmp_path):
    kernels = pytest.importorskip("corr_ops.impl.cpu.build")
    try:
        kernels.find_compiler()
    except kernels.BuildError as error:
        pytest.skip(str(error))
    (wheel,) = wheels.glob("corr_ops-*.whl")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert LIBRARY in names(wheel)
    warnings, explained = call_unpacked(wheel, tmp_path / "unpacked")
    assert warnings == "0"
    assert explained.startswith("cpu: ")

    # A library that is none, or one for another kind of processor, must not end the program.
    (tmp_path / "unpacked" / LIBRARY).write_bytes(b"no library")
    warnings, explained = call(tmp_path / "unpacked")
    assert warnings.startswith("1 corr-ops: the CPU kernels cannot be used")
    assert explained.startswith("reference: ")
    assert "its compiled library cannot be loaded" in explained


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [{"CORR_OPS_PURE": "1"}, {"CC": "no-such-compiler"}, {"CC": "false"}], ids=str
)
def test_wheel_without_kernels_is_for_every_platform_and_says_so_once(tmp_path, variables):
    wheel = build(PACKAGE, tmp_path / "dist", **variables)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in names(wheel)
    warnings, explained = call_unpacked(wheel, tmp_path / "unpacked")
    assert warnings.startswith("1 corr-ops: the CPU kernels cannot be used, the slower reference serves CPUs")
    assert explained.startswith("reference: ")
    assert "its compiled library is not part of this installation" in explained


@pytest.mark.slow
def test_wheel_can_be_built_from_the_source_distribution(wheels, tmp_path):
    archive = build(PACKAGE, tmp_path / "sdist", kind="--sdist")
    with tarfile.open(archive) as tar:
        members = tar.getnames()
        tar.extractall(tmp_path / "source", filter="data")
    assert not [name for name in members if name.endswith(".so")]
    assert [name for name in members if name.endswith("native/kernels.inc")]
    (source,) = (tmp_path / "source").iterdir()
    (direct,) = wheels.glob("corr_ops-*.whl")
    assert sorted(names(build(source, tmp_path / "again"))) == sorted(names(direct))
