"""What is prepared for a GPU machine without a network: wheels that it lacks, commands that run what exists."""

import importlib.metadata
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench.gpu import prepare
from bench.gpu.stages import SECONDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_what_is_missing_is_pinned_and_complete() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines()
    missing = prepare.missing()
    assert set(missing) <= set(pinned)
    names = {requirement.partition("==")[0] for requirement in missing}
    assert {"av", "pydantic", "pydantic-core", "webdataset", "fvcore"} <= names
    assert names.isdisjoint(prepare.IMAGE)
    for name in names:
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None:
                assert canonicalize_name(needed.name) in names | prepare.IMAGE, f"{name} needs {needed}"


@pytest.mark.parametrize("published", [True, False])
def test_a_wheel_that_is_not_published_is_built(
    published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(next(word for word in command if word in ("download", "wheel")))
        (tmp_path / "wheels").mkdir(exist_ok=True)
        if asked[-1] == "wheel":
            (tmp_path / "wheels" / "some_name-1-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(command, int(asked[-1] == "download" and not published), "", "")

    monkeypatch.setattr(prepare, "missing", lambda: ["some-name==1"])
    monkeypatch.setattr(subprocess, "run", pip)
    prepare.fetch(tmp_path / "wheels")
    assert asked == (["download"] if published else ["download", "wheel"])


def test_a_wheel_for_this_machine_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "wheels").mkdir(exist_ok=True)
        (tmp_path / "wheels" / "some_name-1-cp311-cp311-linux_x86_64.whl").touch()
        return subprocess.CompletedProcess(command, int("download" in command), "", "")

    monkeypatch.setattr(prepare, "missing", lambda: ["some-name==1"])
    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(SystemExit, match="some-name==1"):
        prepare.fetch(tmp_path / "wheels")


def test_the_commands_parse_and_run_what_exists() -> None:
    text = prepare.commands()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert re.findall(r"bench\.gpu\.stages (\w+) ", text) == list(SECONDS)
    tests = re.findall(r"packages/\S+\.py", text)
    assert all((ROOT / path).is_file() for path in tests)
    assert {path.name for path in ROOT.glob("packages/*/tests/**/test_*_gpu.py")} < {
        Path(path).name for path in tests
    }
    folders = re.findall(r"\$PWD/(packages/[^:\"]+)", text)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)
    for line in text.splitlines():
        if not line.startswith(("#", "export", "python3 -m pip")):
            assert 60 <= int(re.match(r"timeout (\d+) python3 -m ", line)[1]) <= 600, line  # type: ignore[index]


def test_what_is_fetched_is_not_committed() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "wheels/some.whl", ".site/some.py"], cwd=ROOT, capture_output=True, text=True
    )
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.stdout.split() == ["wheels/some.whl", ".site/some.py"]
