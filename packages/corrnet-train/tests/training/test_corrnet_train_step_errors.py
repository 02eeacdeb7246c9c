"""What a step says when it cannot go on."""

import math
from pathlib import Path

import pytest
import torch

from corrnet_train.training.step import StepValues, compile_errors, diverged_message
from corrnet_train.utils.errors import WorkError


def message(loss: float, grad_norm: float, num_keys: int) -> str:
    values = StepValues(loss=loss, tally=0, stop=False, grad_norm=grad_norm)
    return diverged_message(values, 7, 0.125, [f"k{number}" for number in range(num_keys)], Path("run"))


def test_the_figure_that_is_no_number_is_named_first_the_loss() -> None:
    assert message(math.nan, math.inf, 2).startswith("the loss is nan at step 7, learning rate 0.125; ")
    assert message(2.5, math.inf, 2).startswith("the gradient norm is inf at step 7, ")


def test_samples_are_named_and_many_of_them_counted() -> None:
    assert message(math.nan, 1.0, 16).endswith("diverged.json): " + ", ".join(f"k{n}" for n in range(16)))
    assert message(math.nan, 1.0, 18).endswith(", k14, k15 and 2 more")


def test_errors_of_the_compiler_end_in_one_line_others_as_they_are() -> None:
    def lacks_a_compiler(graph, inputs):
        raise RuntimeError("no working\ncompiler")

    function = torch.compile(lambda x: x + 1, backend=lacks_a_compiler)
    with pytest.raises(WorkError) as failed, compile_errors():
        function(torch.zeros(1))
    assert "torch.compile failed: " in str(failed.value) and "\n" not in str(failed.value)
    assert "no working compiler. train.compile=false" in str(failed.value)
    with pytest.raises(RuntimeError, match=r"^of the model$"), compile_errors():
        raise RuntimeError("of the model")
