"""The benchmark for GPUs takes the same path on the CPU, with tiny sizes; its report reads the rows."""

import pytest
import torch
from bench.ops import gpu, gpu_report
from bench.ops.cases import Case

CPU = torch.device("cpu")
TINY = Case("res2", 16, 2, 8, 2)


@pytest.fixture(scope="module")
def operator_rows():
    return list(gpu.operator_rows(TINY, CPU, rounds=2, with_inductor=False))


def test_every_contender_is_timed_in_both_directions_and_formats(operator_rows) -> None:
    timed = [row for row in operator_rows if row["table"] == "operator"]
    providers = {"cpu", "reference", "conv3x3x3", "conv1x7x7"}
    assert {row["provider"] for row in timed} == providers
    assert len(timed) == len(providers) * 2 * 2
    assert all(0 < row["ms20"] <= row["ms50"] <= row["ms80"] and row["eager_ms"] > 0 for row in timed)
    assert all(row["ratio50"] == 1 for row in timed if row["provider"] == "cpu")


def test_a_peer_is_timed_or_says_why_not(operator_rows) -> None:
    peers = [row for row in operator_rows if row["provider"] == "spatial-correlation-sampler"]
    assert len(peers) == 2
    assert all("ms50" in row or "not installed" in row["note"] for row in peers)


def test_the_operator_keeps_its_inputs_alone(operator_rows) -> None:
    rows = [row for row in gpu.kept_rows(TINY, CPU) if row["provider"] == "cpu"]
    assert len(rows) == 2
    assert all(row["kept_bytes"] <= row["input_bytes"] for row in rows)


def test_models_take_turns_and_a_missing_one_says_so() -> None:
    names = ("r2plus1d_tiny", "corrnet_tiny", "r2plus1d_18 of torchvision")
    rows = list(gpu.model_rows(names, CPU, batch=2, num_frames=8, resolution=32, rounds=2))
    assert [row["direction"] for row in rows] == ["inference"] * 3 + ["training"] * 3
    assert all(row.get("clips_per_second", 0) > 0 or row["note"] for row in rows)
    assert all(row["clips_per_second"] > 0 for row in rows if row["provider"].endswith("tiny"))


def on_record(provider: str, milliseconds: float, direction: str, stage: str) -> dict[str, object]:
    row = {"table": "operator", "stage": stage, "num_frames": 32, "batch": 1, "direction": direction}
    row |= {"provider": provider, "dtype": "bfloat16", "ms20": milliseconds, "ms50": milliseconds}
    machine = {"gpu": "G", "driver": "1", "torch": "2", "triton": "3", "cuda": "4"}
    rates = {"copy_gb_s": 1.0, "matrix_tflops": 1.0}
    return row | {"ms80": milliseconds, "ratio50": milliseconds, "floor_ms": 2.0} | machine | rates


def test_the_report_says_which_targets_were_met() -> None:
    times = {"triton": 1.0, "conv3x3x3": 4.0, "reference": 20.0}
    rows = [
        on_record(provider, time, direction, stage)
        for stage in gpu_report.STAGES
        for direction in gpu_report.KERNELS
        for provider, time in times.items()
    ]
    text = gpu_report.markdown(rows)
    assert "| forward: at least 3 times as fast as Conv3d 3x3x3 | 4 | yes | " in text
    assert "| forward: at least 30 times as fast as the reference | 20 | no | " in text
    assert "| forward: at most the floor's time | 0.5 | yes | " in text


def test_without_a_record_the_report_has_modelled_figures_alone() -> None:
    text = gpu_report.markdown([])
    assert "Nothing was measured yet" in text
    assert "| forward: at least 3 times as fast as Conv3d 3x3x3 |  |  | 3" in text
