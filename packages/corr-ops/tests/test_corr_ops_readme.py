"""The examples of the README run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_readme_has_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(
    ("example", "needs"),
    [
        pytest.param(EXAMPLES[0], None, id="clips"),
        pytest.param(EXAMPLES[1], None, id="images"),
        pytest.param(EXAMPLES[2], None, id="explain"),
        pytest.param(EXAMPLES[3], "onnxscript", id="onnx", marks=pytest.mark.slow),
        pytest.param(EXAMPLES[4], "fvcore", id="fvcore"),
    ],
)
def test_example_runs(
    example: str, needs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if needs is not None:
        pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert "assert " in example or (tmp_path / "correlation.onnx").stat().st_size > 0
