import os

import pytest
import torch

from corrnet_models import create_model
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.kernels import check_deterministic, chosen_kernels, prepare_deterministic


def flags():
    cudnn, mode = torch.backends.cudnn, torch.get_deterministic_debug_mode()
    return cudnn.deterministic, cudnn.benchmark, mode, torch.utils.deterministic.fill_uninitialized_memory


def test_flags_hold_in_the_block_alone():
    before = flags()
    with chosen_kernels(deterministic=False):
        assert flags() == (False, True, 0, True)
    with pytest.raises(KeyError), chosen_kernels(deterministic=True):
        assert flags() == (True, False, 2, False)
        raise KeyError
    assert flags() == before


def test_a_run_is_deterministic_only_while_it_runs(make_config, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    before, seen = flags(), []
    trainer = Trainer(
        make_config("run.deterministic=true", "run.device=auto", "optim.epochs=0.25", "train.compile=false")
    )
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    step = trainer._train_step
    trainer._train_step = lambda *args: seen.append(flags()) or step(*args)
    assert trainer.run().finished
    assert seen == [(True, False, 2, False)]
    assert flags() == before


def test_a_wrong_workspace_of_cublas_and_one_that_comes_too_late_are_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG to be :4096:8 or :16:8, but it is ':0:0'"):
        prepare_deterministic()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="a GPU was used before the run was made: set it"):
        prepare_deterministic()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    prepare_deterministic()


def test_a_model_whose_gradients_do_not_repeat_on_a_gpu_is_refused():
    check_deterministic(create_model("corrnet_tiny"), "corrnet_tiny")
    with pytest.raises(ValueError, match=r"deterministic=true is not for model.name=r2d_tiny on a GPU"):
        check_deterministic(create_model("r2d_tiny"), "r2d_tiny")
    with pytest.raises(ValueError, match=r"PyTorch's AdaptiveAvgPool3d has no gradient there"):
        check_deterministic(torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1)), "torchvision/r3d_18")
