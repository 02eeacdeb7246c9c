"""Every model's counts must be those on record; the tiny ones' passes are timed.

A count that changed on purpose is recorded with `python bench/models/update.py`.
"""

import json
import runpy
from pathlib import Path

import pytest
import torch

from corrnet_models import create_model, list_models

update = runpy.run_path(str(Path(__file__).with_name("update.py")))
recorded = json.loads(update["RESULTS"].read_text())


@pytest.mark.parametrize("name", list_models())
def test_counts_are_those_on_record(benchmark, name):
    pytest.importorskip("fvcore")
    rows = benchmark.pedantic(update["count"], args=(name,), rounds=1)
    hint = "run `python bench/models/update.py` if this change is meant"
    assert [update["entry"](row) for row in rows] == recorded.get(name), hint


def test_nothing_on_record_is_gone():
    assert sorted(recorded) == list_models()


@pytest.mark.parametrize("name", list_models("*tiny*"))
def test_forward(benchmark, name):
    model = create_model(name).eval()
    x = torch.randn(8, model.config.in_channels, model.config.num_frames, 32, 32)
    with torch.inference_mode():
        benchmark.pedantic(model, args=(x,), rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("name", list_models("*tiny*"))
def test_forward_and_backward(benchmark, name):
    model = create_model(name)
    x = torch.randn(8, model.config.in_channels, model.config.num_frames, 32, 32)

    def step():
        model.zero_grad()
        model(x).sum().backward()

    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
