"""The examples of the README run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_readme_has_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=["clips", "images", "fvcore"])
def test_example_runs(example: str) -> None:
    if "fvcore" in example:
        pytest.importorskip("fvcore")
    exec(compile(example, str(README), "exec"), {})
