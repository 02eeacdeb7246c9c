"""CONTRIBUTING.md names files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_files_that_newcomers_are_sent_to_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"## Where is it\?\n\n(.*?)\n\n", text, re.DOTALL)
    paths = re.findall(r"`((?:corrnet_train|video_data|corrnet_models|corr_ops)/[\w/.]+)`", table)
    assert len(paths) >= 10
    assert [path for path in paths if not list(ROOT.glob(f"packages/*/src/{path}"))] == []


def test_every_room_has_its_line():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package in ("corrnet_train", "video_data"):
        (table,) = re.findall(rf"\| room of `{package}` \|.*\n\|---\|---\|\n((?:\|.*\n)+)", text)
        named = re.findall(r"`([\w.]+)`", "".join(re.findall(r"(?m)^\|(.*?)\|", table)))
        (source,) = ROOT.glob(f"packages/*/src/{package}")
        rooms = {path.parent.name for path in source.glob("*/__init__.py")}
        assert {name for name in named if not name.endswith(".py")} == rooms, package
