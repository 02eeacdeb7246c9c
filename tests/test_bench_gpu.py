"""The stages for a GPU run dry on a CPU, as commands and with tiny sizes; their report reads the rows on record."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from bench.gpu import kernels, probe, report, tune
from bench.gpu.measure import Rows, read

from corr_ops.impl.triton import configs

ROOT = Path(__file__).parents[1]


def run_dry(stage: str, folder: Path) -> list[dict[str, Any]]:
    # The kernels of the operator run in the interpreter; the trainer takes the CPU's as it does anywhere.
    interpreted = {} if stage == "trainer" else {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "bench.gpu.stages",
        stage,
        "--tiny",
        "--out",
        str(folder),
        "--seconds",
        "300",
    ]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **interpreted}, check=True, timeout=300)
    rows = read(folder / f"{stage}.jsonl")
    assert rows[-1]["table"] == "end"
    assert [row for row in rows if "error" in row or "skipped" in row] == []
    return rows


@pytest.mark.slow
def test_kernels_run_dry_and_are_right_in_every_variant(tmp_path: Path) -> None:
    rows = [row for row in run_dry("kernels", tmp_path) if row["table"] == "kernel"]
    assert {(row["variant"], row["dtype"]) for row in rows} == {
        ("as it is", "float16"),
        ("both", "float16"),
        ("as it is", "float32"),
    }
    for row in rows:
        tolerance = 1e-3 if row["dtype"] == "float16" else 1e-6
        for kernel in ("forward", "grad_frames", "grad_filters"):
            assert row[f"{kernel}_error"] < tolerance, row


@pytest.mark.slow
def test_tune_runs_dry_and_writes_entries_of_the_table(tmp_path: Path) -> None:
    rows = run_dry("tune", tmp_path)
    assert {row["table"] for row in rows} == {"tuned", "splits", "peers", "end"}
    entries = json.loads((tmp_path / "configs.json").read_text(encoding="utf-8"))
    assert {entry["kernel"] for entry in entries} == {"grad_frames_16_bit", "forward_exact"}
    assert all({"target", "lanes", "num_warps", "strips", "size"} <= set(entry) for entry in entries)


@pytest.mark.slow
def test_network_runs_dry_and_its_ways_give_the_same_loss(tmp_path: Path) -> None:
    rows = [row for row in run_dry("network", tmp_path) if row["table"] == "network"]
    for model in ("corrnet_tiny", "r2plus1d_tiny"):
        losses = [row["value"] for row in rows if (row["model"], row["direction"]) == (model, "training")]
        assert len(losses) == 2
        assert losses == pytest.approx([losses[0]] * 2, rel=1e-3)


@pytest.mark.slow
def test_trainer_runs_dry_and_a_stopped_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    rows = run_dry("trainer", tmp_path)
    runs = {row["run"]: row for row in rows if row["table"] == "run"}
    assert {row["rc"] for row in runs.values()} == {0}
    assert runs["bf16, stopped and resumed"]["stopped_rc"] == 130
    (equal,) = [row for row in rows if row["table"] == "equal"]
    assert equal["tensors"] > 100
    assert equal["differing"] == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_probe_builds_without_a_gpu(tmp_path: Path) -> None:
    (built,) = [row for row in run_dry("probe", tmp_path) if row["table"] == "build"]
    assert built["rc"] == 0
    assert built["target"].startswith("sm_")


def test_probe_says_where_nvcc_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    probe.run(Rows(tmp_path / "rows.jsonl", torch.device("cpu"), seconds=100), torch.device("cpu"))
    (row,) = read(tmp_path / "rows.jsonl")
    assert "no nvcc" in row["skipped"]


def test_probe_adds_what_its_program_prints_and_how_it_failed(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", torch.device("cpu"), seconds=100)
    printed = '{"table": "instruction", "what": "mul", "cycles": 1.5}'
    assert not probe._runs(rows, "run", ["sh", "-c", f"echo '{printed}'; echo no device >&2; exit 1"])
    first, last = read(tmp_path / "rows.jsonl")
    assert (first["table"], first["cycles"]) == ("instruction", 1.5)
    assert (last["rc"], last["error"]) == (1, "no device\n")


def test_a_stage_needs_a_gpu_unless_it_is_dry(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "bench.gpu.stages", "kernels", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_are_on_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", torch.device("cpu"), seconds=100)
    rows.add("first", value=1 / 3)
    assert read(tmp_path / "rows.jsonl")[0]["value"] == 0.33333
    rows.attempt("second", lambda: 1 // 0)
    assert "ZeroDivisionError" in read(tmp_path / "rows.jsonl")[1]["error"]


def test_what_no_time_is_left_for_is_a_row(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", torch.device("cpu"), seconds=-1)
    assert rows.attempt("late", lambda: pytest.fail("it was run")) == {}
    assert read(tmp_path / "rows.jsonl")[0]["skipped"] == "no time left"


@pytest.mark.parametrize("name", kernels.VARIANTS)
def test_the_text_that_a_variant_changes_is_in_the_kernels(name: str) -> None:
    with kernels.variant(name):
        pass


@pytest.mark.parametrize("entry", [e for e in configs._table() if e["target"] == "cuda-90"], ids=str)
def test_the_table_is_among_the_candidates(entry: dict[str, Any]) -> None:
    assert entry in list(tune.candidates(entry["kernel"], "cuda-90"))


def test_the_report_shows_what_is_on_record() -> None:
    rows = read(report.RECORD / "tune.jsonl")
    text = report.operator([row for row in rows if row["table"] == "peers"])
    first = next(row for row in rows if row["table"] == "peers")
    assert f"| bfloat16 | 1 | forward | {1e3 * first['triton_ms']:.3g} |" in text
    readme = (ROOT / "packages" / "corr-ops" / "README.md").read_text(encoding="utf-8")
    assert text in readme
    assert all(math.isfinite(row["ms"]) for row in rows if "ms" in row)
