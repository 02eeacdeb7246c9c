"""Multiply-accumulates beside the paper's, and the counters beside each other."""

import builtins
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from corrnet_models import (
    Complexity,
    _registry,
    complexity_table,
    count_gmacs,
    count_gmacs_fvcore,
    list_models,
    markdown_table,
    model_config,
)

# Counted by hand from Table 2 and Figure 2: convolutions, correlations and the classifier.
BY_HAND = {
    ("r2d26", 16): 27.48,
    ("r2d26", 32): 54.95,
    ("r2plus1d26", 16): 35.95,
    ("r2plus1d26", 32): 71.91,
    ("corrnet26", 16): 36.56,
    ("corrnet26", 32): 73.13,
    ("corrnet50", 32): 115.05,
    ("corrnet101", 32): 187.05,
}


FULL_SIZE = ["r2d26", "r2plus1d26", "r2plus1d26_twostream", "corrnet26", "corrnet50", "corrnet101"]


@pytest.fixture(scope="module")
def table() -> list[Complexity]:
    pytest.importorskip("fvcore")
    return complexity_table(FULL_SIZE)


@pytest.fixture(scope="module")
def rows(table: list[Complexity]) -> dict[tuple[str, int], Complexity]:
    return {(row.name, row.num_frames): row for row in table}


@pytest.mark.slow
def test_table_has_a_row_per_model_and_length_in_the_order_given(table: list[Complexity]) -> None:
    expected = [(name, num_frames, 224) for name in FULL_SIZE for num_frames in (16, 32)]
    assert [(row.name, row.num_frames, row.resolution) for row in table] == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_frames"), BY_HAND)
def test_counts_agree_with_the_count_by_hand(
    rows: dict[tuple[str, int], Complexity], name: str, num_frames: int
) -> None:
    assert rows[name, num_frames].gmacs == pytest.approx(BY_HAND[name, num_frames], rel=1e-3)


@pytest.mark.slow
def test_fvcore_agrees_with_torch(table: list[Complexity]) -> None:
    for row in table:
        assert row.gmacs_fvcore == pytest.approx(row.gmacs, rel=1e-9), row


@pytest.mark.slow
def test_differences_from_the_papers_figures(rows: dict[tuple[str, int], Complexity]) -> None:
    assert rows["r2plus1d26", 32].paper_gmacs == 71.9
    for place in [("r2d26", 16), ("r2d26", 32), ("r2plus1d26", 16), ("r2plus1d26", 32)]:
        assert abs(rows[place].difference) <= 0.05 + 0.005, place
    assert rows["corrnet50", 32].difference == pytest.approx(0.05, abs=0.005)
    assert rows["corrnet101", 32].difference == pytest.approx(0.05, abs=0.005)
    # The paper prints 1.67 G more than its own text gives.
    assert rows["corrnet26", 32].difference == pytest.approx(-1.67, abs=0.005)
    assert rows["corrnet26", 16].difference == pytest.approx(-0.84, abs=0.005)
    assert rows["corrnet101", 16].paper_gmacs is None
    assert rows["corrnet101", 16].difference is None


@pytest.mark.slow
def test_two_streams_cost_two_backbones(rows: dict[tuple[str, int], Complexity]) -> None:
    rgb = count_gmacs(model_config("r2plus1d26"))
    flow = count_gmacs(model_config("r2plus1d26", in_channels=2))
    assert rows["r2plus1d26_twostream", 32].gmacs == pytest.approx(rgb + flow, rel=1e-6)


@pytest.mark.parametrize("name", ["r2d26", "corrnet_tiny"])
def test_fvcore_agrees_with_torch_where_the_strides_do_not_divide_the_frame(name: str) -> None:
    pytest.importorskip("fvcore")
    config = model_config(name, num_frames=4)
    assert count_gmacs_fvcore(config, resolution=72) == pytest.approx(
        count_gmacs(config, resolution=72), rel=1e-9
    )


def test_correlation_costs_what_table_1_says() -> None:
    """The operator in CorrNet-26 at 32 frames: C*K*K*L*H*W after res2, res3 and res4."""
    config = model_config("corrnet26")
    places = [(64, 32, 56), (128, 32, 28), (256, 16, 14)]
    operator = sum(width * 49 * frames * size * size for width, frames, size in places)
    # The 1x1x1 convolutions to and from the operator: C -> C/4 and G*K*K -> C.
    around = sum(
        4 * width * (width + width // 32 * 49) * frames * size * size for width, frames, size in places
    )
    without = count_gmacs(config.replace(corr_after=()))
    assert count_gmacs(config) - without == pytest.approx((operator + around) / 1e9, rel=1e-9)


def test_table_of_each_models_own_length() -> None:
    rows = complexity_table(["r2d_tiny", "corrnet_tiny"], num_frames=None)
    assert [(row.name, row.num_frames, row.resolution) for row in rows] == [
        ("r2d_tiny", 8, 32),
        ("corrnet_tiny", 8, 32),
    ]


@pytest.mark.slow
def test_table_of_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {name: info for name, info in _registry._MODELS.items() if name.endswith("tiny")}
    monkeypatch.setattr(_registry, "_MODELS", tiny)
    assert [row.name for row in complexity_table(num_frames=None)] == list_models() == sorted(tiny)


def test_table_works_without_fvcore(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_fvcore(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.split(".")[0] == "fvcore":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_fvcore)
    monkeypatch.setattr("corrnet_models._complexity.find_spec", lambda name: None)
    assert complexity_table(["r2d_tiny"], num_frames=(8,))[0].gmacs_fvcore is None
    with pytest.raises(ImportError, match=r"corrnet-models\[fvcore\]"):
        count_gmacs_fvcore(model_config("r2d_tiny"))


def test_table_refuses_unknown_models_and_lengths() -> None:
    with pytest.raises(ValueError, match="did you mean 'corrnet26'"):
        complexity_table(["corrnet-26"])
    with pytest.raises(ValueError, match="multiple of 4"):
        complexity_table(["corrnet26"], num_frames=(10,))


@pytest.mark.slow
def test_the_readme_shows_the_present_figures(table: list[Complexity]) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    tiny = ["r2d_tiny", "r2plus1d_tiny", "r2plus1d_tiny_twostream", "corrnet_tiny"]
    assert markdown_table(table) in readme
    assert markdown_table(complexity_table(tiny, num_frames=None)) in readme
