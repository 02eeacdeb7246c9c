"""Tables 3 and 6 of the paper: what models cost, counted and timed."""

import sys
import time
from types import ModuleType

import pytest
import torch
from bench import interleave, record
from bench.interleave import Contender
from bench.models import table3
from torch import nn

from corrnet_models import create_model, list_models, model_info
from corrnet_train.networks.cost import activation_bytes


def test_every_registered_model_has_its_rows_with_the_figures_of_the_paper():
    rows = list(table3.models())
    assert {row.name for row in rows} >= set(list_models())
    for row in rows:
        if row.name in list_models():
            assert row.paper_gmacs == model_info(row.name).paper_gmacs.get(row.shape[2])
    assert {row.name for row in rows if row.is_timed} >= set(list_models())


@pytest.mark.slow
def test_tiny_models_are_counted_and_timed_in_turns():
    asked = list(table3.models(["corrnet_tiny", "r2plus1d_tiny"]))
    corrnet, baseline = table3.measure(asked, rounds=2)
    assert corrnet["params"] > baseline["params"] and corrnet["gmacs"] > baseline["gmacs"]
    assert corrnet["activation_bytes"] > baseline["activation_bytes"]
    for direction in table3.DIRECTIONS:
        assert corrnet[f"{direction} ratio50"] > 0 and baseline[f"{direction} ratio50"] == 1
    assert corrnet["training ms50"] > corrnet["inference ms50"]


def test_activations_of_a_layer_are_its_input():
    network = nn.Sequential(nn.Conv3d(3, 5, 1), nn.ReLU(), nn.Linear(8, 8))
    kept = 3 * 2 * 8 * 8 + 5 * 2 * 8 * 8  # the clip, and the ReLU's output, which the next layer takes
    assert activation_bytes(network, (1, 3, 2, 8, 8)) == 4 * kept
    model = create_model("r2d_tiny")
    assert activation_bytes(model, (2, 3, 8, 32, 32)) == pytest.approx(
        2 * activation_bytes(model, (1, 3, 8, 32, 32)), rel=0.01
    )


def test_what_is_not_finite_is_not_timed():
    model = next(table3.models(["r2d_tiny"]))

    def make():
        network = model.make()
        nn.init.constant_(network.get_classifier().weight, torch.nan)
        return network

    with pytest.raises(AssertionError, match="r2d_tiny puts out"):
        table3.contenders(table3.Model("r2d_tiny", "tiny", make, model.shape, None, True))


def test_models_of_torchvision_are_rows_where_it_is_installed(monkeypatch):
    zoo = ModuleType("torchvision.models.video")
    for name in table3.TORCHVISION:
        setattr(zoo, name, lambda: nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 4)))
    monkeypatch.setitem(sys.modules, "torchvision.models.video", zoo)
    monkeypatch.setattr(table3, "find_spec", lambda name: name == "torchvision")
    found = [row for row in table3.models() if row.name.startswith("torchvision")]
    assert [(row.name.split()[1], row.shape[-1]) for row in found] == [
        ("r2plus1d_18", 112), ("r2plus1d_18", 224), ("r3d_18", 112), ("r3d_18", 224), ("s3d", 224),
    ]  # fmt: skip
    assert found[0].count()["params"] == 16


def test_the_table_has_a_line_for_each_row_and_clips_a_second():
    run = {"commit": "c" * 40, "threads": 2, "load": 0.0, "torch": "2", "cpu": "A CPU", "cores": 2}
    counts = {"num_frames": 16, "resolution": 224, "batch": 1, "size": "full", "activation_bytes": 5e8, **run}
    rows = [
        {"model": "corrnet26", "params": 18e6, "gmacs": 36.56, "paper_gmacs": 37.4, **counts},
        {"model": "r2plus1d26", "params": 17e6, "gmacs": 35.95, **counts},
    ]
    for direction in table3.DIRECTIONS:
        rows[0] |= {f"{direction} ms50": 500.0, f"{direction} ratio50": 1.25}
    text = table3.markdown(rows)
    assert "| corrnet26 | 16 x 224 x 224 | 18 | 36.56 | 37.4 | 500 | 2 | 2 | 1.02 | 1.25 | 1.25 |" in text
    assert "| r2plus1d26 | 16 x 224 x 224 | 17 | 35.95 |  | 500 |  |  | 1 |  |  |" in text


@pytest.mark.skipif(not record.read("table3"), reason="nothing is on record")
def test_the_record_has_the_counts_of_today():
    counted = [row.count() for row in table3.models(list_models("*tiny*"))]
    on_record = {row["model"]: row for row in record.read("table3")}
    for row in counted:
        for key in ("params", "activation_bytes"):
            assert on_record[row["model"]][key] == row[key]


def test_with_one_thread_the_clock_stands_still_while_others_run(monkeypatch):
    for threads, waits in ((1, False), (2, True)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        nap = Contender("nap", lambda: time.sleep(0.05))
        interleave.alternate([nap], rounds=1, clock=interleave.own_clock())
        assert (nap.seconds[0] > 0.04) == waits
