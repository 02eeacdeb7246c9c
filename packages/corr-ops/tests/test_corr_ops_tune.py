"""The script that chooses launch configurations, with times that the tests make up."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")
from corr_ops.impl.triton import configs

TOOL = Path(__file__).parents[1] / "tools" / "tune.py"
Entry = dict[str, Any]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fastest_entry_that_can_be_used_is_taken_for_all_widths(tool: ModuleType) -> None:
    lines: list[str] = []

    def measure(kernel: str, stage: str, entry: Entry) -> float | None:
        if entry["lanes"] == 16:
            return None  # fastest, but it spills
        return entry["lanes"] + entry["num_warps"] + len(entry["strips"])

    entries = tool.tune("forward_exact", "cuda-90", measure, lines.append)
    assert entries == [
        {"kernel": "forward_exact", "target": "cuda-90", "lanes": 32, "num_warps": 1, "strips": [4]}
    ]
    assert [line.partition(":")[0] for line in lines] == [
        f"forward_exact, {stage}" for stage in ("res2", "res3", "res4")
    ]


def test_widths_that_differ_get_entries_of_their_own(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"res2": 128, "res3": 64, "res4": 32}

    def measure(kernel: str, stage: str, entry: Entry) -> float:
        return abs(entry["lanes"] - wanted[stage]) + entry["num_warps"] - len(entry["strips"])

    entries = tool.tune("forward_dot", "cuda-90", measure, lambda line: None)
    monkeypatch.setattr(configs, "_table", lambda: tool.replace(configs_before, entries))
    found = {
        size: configs.find("forward_dot", "cuda-90", size=size, taps=7, dilation=2) for size in (56, 28, 14)
    }
    assert {size: config.lanes for size, config in found.items()} == {56: 128, 28: 64, 14: 32}
    assert all(config == (config.lanes, 1, 7, 8) for config in found.values())
    assert configs.find("forward_dot", "cuda-80", size=56, taps=7, dilation=2).lanes == 64  # as it was


configs_before = json.loads(Path(configs.__file__).with_name("configs.json").read_text(encoding="utf-8"))


def test_nothing_that_can_be_used_is_an_error(tool: ModuleType) -> None:
    with pytest.raises(
        RuntimeError, match="no configuration of grad_filters_dot can be used at res2 on hip-gfx942"
    ):
        tool.tune("grad_filters_dot", "hip-gfx942", lambda *_: None, lambda line: None)


def test_the_table_is_among_the_candidates(tool: ModuleType) -> None:
    for entry in configs_before:
        candidates = list(tool.candidates(entry["kernel"], entry["target"]))
        assert entry in candidates


def test_the_file_is_written_as_it_stands(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "TABLE", tmp_path / "configs.json")
    tool.write(configs_before)
    assert tool.TABLE.read_text(encoding="utf-8") == Path(configs.__file__).with_name(
        "configs.json"
    ).read_text("utf-8")


def test_without_a_gpu_it_says_so(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr("sys.argv", ["tune.py"])
        tool.main()
    assert "no GPU" in capsys.readouterr().err
