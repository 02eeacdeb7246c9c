"""The README's examples run."""

import re
from pathlib import Path

import pytest

from corrnet_models import _registry

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.strip().splitlines()[-1][:40])
def test_example_runs(example: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
    assert "\nassert " in example  # what it shows is checked too
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
