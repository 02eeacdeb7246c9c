"""The shipped test helpers: their oracle and their budget have to be able to say no."""

import pytest
import torch

from corr_ops.testing import assert_within_budget, cases, make_frames, make_weight, oracle_correlation

PLAIN = cases()[0]


def test_oracle_by_hand() -> None:
    base = torch.tensor([2.0, 3.0, 5.0, 7.0]).reshape(1, 2, 1, 1, 2)
    search = torch.tensor([11.0, 13.0, 17.0, 19.0]).reshape(1, 2, 1, 1, 2)
    weight = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]).reshape(2, 1, 3)
    out = oracle_correlation(base, search, weight, kernel_size=(1, 3))
    left = [0.0, (1 * 3 * 11 + 3 * 7 * 17) / 2]
    here = [(0 + 5 * 17) / 2, (0 + 7 * 19) / 2]
    right = [(2 * 2 * 13 + 0) / 2, 0.0]
    assert out.dtype == torch.float64
    assert out.reshape(3, 2).tolist() == [left, here, right]


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)


def test_random_tensors_repeat_and_have_the_sizes_of_the_case() -> None:
    frames = make_frames(PLAIN, dtype=torch.bfloat16)
    assert frames.shape == (2, 4, 3, 7, 6)
    assert frames.dtype == torch.bfloat16
    assert torch.equal(frames, make_frames(PLAIN).bfloat16())
    assert not torch.equal(frames, make_frames(PLAIN, dtype=torch.bfloat16, seed=1))
    assert make_weight(PLAIN, num_frames=None).shape == (4, 3, 3)
    assert make_weight(PLAIN, num_frames=3).shape == (3, 4, 3, 3)


def test_budget_is_twice_the_inherent_error_and_a_rounding() -> None:
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    low = torch.tensor([1.125, -4.0], dtype=torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    budget = 2 * (0.125 + 4 * eps)
    assert_within_budget(torch.tensor([1.0, -4.0 + budget]).bfloat16(), exact=exact, low_precision=low)
    with pytest.raises(AssertionError, match="exceeds the budget"):
        assert_within_budget(
            torch.tensor([1.0, -4.0 + budget + 4 * eps]).bfloat16(), exact=exact, low_precision=low
        )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_budget_refuses_what_is_not_finite(wrong: float) -> None:
    exact = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(AssertionError, match="not finite"):
        assert_within_budget(torch.tensor([0.0, wrong]), exact=exact, low_precision=exact.float())


def test_budget_refuses_another_shape() -> None:
    exact = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"shape \[3\] instead of \[2\]"):
        assert_within_budget(torch.zeros(3), exact=exact, low_precision=exact.float())
