import dataclasses
import pickle
import random
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from corrnet_train.checkpoint import digest, state
from corrnet_train.checkpoint.async_writer import CheckpointWriter
from corrnet_train.checkpoint.state import (
    Checkpoint,
    CheckpointError,
    check_resumable,
    load_weights,
    newest_intact,
    weights_hash,
)
from corrnet_train.config.load import config_to_dict


def checkpoint(config=None, **changes):
    model = nn.Linear(3, 2)
    values = {
        "step": 5, "config": config_to_dict(config) if config else {}, "classes": ("a", "b"),
        "model": model.state_dict(), "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "loader": {"position": 40}, "rng": {"cpu": torch.get_rng_state()}, "best_score": 0.5,
        "train_seconds": 1.5,
    } | changes  # fmt: skip
    return Checkpoint(**values)


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_what_is_saved_is_read_back(tmp_path):
    saved = checkpoint()
    saved.save(tmp_path / "last.pt")
    loaded = Checkpoint.load(tmp_path / "last.pt")
    for field in dataclasses.fields(Checkpoint):
        assert equal(getattr(loaded, field.name), getattr(saved, field.name)), field.name


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"

    class Evil:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"format_version": 1, "model": Evil()}, path)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        Checkpoint.load(path)


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Checkpoint.load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        Checkpoint.load(tmp_path / "text.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(CheckpointError):
        Checkpoint.load(tmp_path / "pickle.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of corrnet"):
        Checkpoint.load(tmp_path / "other.pt")
    checkpoint().save(tmp_path / "cut.pt")
    content = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        Checkpoint.load(tmp_path / "cut.pt")


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint().save(path)
    content = path.read_bytes()
    rng = random.Random(0)
    # Everywhere, and in the digest itself.
    places = [rng.randrange(len(content)) for _ in range(150)] + [len(content) - n for n in range(1, 90, 4)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"last.pt is not a readable checkpoint: .*damaged"):
            Checkpoint.load(path)
    for length in (1, 64, 79, 81, 500, len(content) // 2):
        path.write_bytes(content[:-length])
        with pytest.raises(CheckpointError, match=r"last.pt is not a readable checkpoint"):
            Checkpoint.load(path)
    path.write_bytes(content)
    assert Checkpoint.load(path).step == 5


def test_what_is_compared_with_its_digest_is_what_is_read(tmp_path, monkeypatch):
    """Training replaces last.pt while another process reads it."""
    path = tmp_path / "last.pt"
    checkpoint(step=5).save(path)
    check = digest.check_digest

    def replace_then_check(file):
        checkpoint(step=6).save(path)
        return check(file)

    monkeypatch.setattr(digest, "check_digest", replace_then_check)
    assert Checkpoint.load(path).step == 5
    monkeypatch.setattr(digest, "check_digest", lambda file: (check(file), checkpoint(step=7).save(path)))
    assert Checkpoint.load(path).step == 6


def test_the_newest_intact_checkpoint_is_found_by_reading_it_alone(tmp_path, monkeypatch):
    for step in (4, 8, 12):
        checkpoint(step=step).save(tmp_path / f"step-{step:08d}.pt")
    checkpoint(step=10).save(tmp_path / "best.pt")
    read, check = [], digest.check_digest
    monkeypatch.setattr(
        digest, "check_digest", lambda file: (read.append(Path(file.name).name), check(file))[1]
    )
    assert newest_intact(tmp_path)[1].step == 12
    assert read == ["step-00000012.pt"]


def test_a_checkpoint_is_a_file_that_torch_reads(tmp_path):
    checkpoint().save(tmp_path / "last.pt")
    for mmap in (False, True):
        content = torch.load(tmp_path / "last.pt", weights_only=True, mmap=mmap)
        assert content["step"] == 5 and content["model"]["weight"].shape == (2, 3)
    assert any(name.endswith("data.pkl") for name in zipfile.ZipFile(tmp_path / "last.pt").namelist())


def test_a_checkpoint_that_was_saved_again_with_torch_is_read(tmp_path):
    """It has no digest, as those that were made before there were any."""
    checkpoint().save(tmp_path / "new.pt")
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    torch.save(content | {"step": 6}, tmp_path / "again.pt")
    assert Checkpoint.load(tmp_path / "again.pt").step == 6
    whole = (tmp_path / "again.pt").read_bytes()
    (tmp_path / "again.pt").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"it is damaged: the end of again.pt is missing"):
        Checkpoint.load(tmp_path / "again.pt")


def test_the_newest_intact_checkpoint_is_found_whatever_its_name(tmp_path):
    assert newest_intact(tmp_path / "nowhere") is None
    for step in (4, 8, 12, 16):
        checkpoint(step=step).save(tmp_path / f"step-{step:08d}.pt")
    checkpoint(step=10).save(tmp_path / "best.pt")
    (tmp_path / "last.pt").symlink_to("step-00000016.pt")
    (tmp_path / "notes.pt").write_text("not one of ours")
    assert newest_intact(tmp_path)[1].step == 16
    path, found = newest_intact(tmp_path, without=tmp_path / "last.pt")  # nor what it leads to
    assert (path.name, found.step) == ("step-00000012.pt", 12)
    for name in ("step-00000012.pt", "step-00000016.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:200] + b"\0" + content[201:])
    path, found = newest_intact(tmp_path)
    assert (path.name, found.step) == ("best.pt", 10)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.load(tmp_path / "last.pt")
    assert str(error.value).endswith(
        "; the newest intact one beside it is best.pt, of step 10 (there are also step-00000016.pt, step-00000012.pt, "
        "step-00000008.pt, step-00000004.pt): once last.pt is removed, "
        f"corrnet resume {tmp_path.parent} goes on from that"
    )
    with pytest.raises(
        CheckpointError, match=r"no checkpoint at .*gone.pt; the newest intact one beside it is best"
    ):
        Checkpoint.load(tmp_path / "gone.pt")
    for name in ("best.pt", "step-00000008.pt", "step-00000004.pt"):
        (tmp_path / name).write_bytes(b"")
    assert newest_intact(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"; none beside it is intact: best.pt, step-00000016.pt, "):
        Checkpoint.load(tmp_path / "last.pt")


def test_weights_of_another_model_are_refused_with_the_difference():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = weights_hash(model)
    others = {
        "0.weight": torch.zeros(4, 3),
        "0.bias": torch.zeros(2),
        "1.weight": torch.zeros(2, 2),
        "x": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as error:
        load_weights(model, others, source="a.pt")
    message = str(error.value)
    assert "a.pt belongs to another model" in message
    assert "missing: 1.bias" in message
    assert "unexpected: x" in message
    assert "0.weight: [4, 3] in the checkpoint, [2, 3] in the model" in message
    assert weights_hash(model) == before


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "missing: bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(1)}, "unexpected: more"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "of another shape: weight"),
    ],
)
def test_one_difference_is_enough_to_refuse_weights(others, message):
    model = nn.Linear(3, 2)
    before = weights_hash(model)
    with pytest.raises(CheckpointError, match=f"a.pt belongs to another model: {message}[^;]*$"):
        load_weights(model, others, source="a.pt")
    assert weights_hash(model) == before


def test_the_weights_hash_depends_on_every_name_shape_type_and_value():
    def holding(name, tensor):
        model = nn.Module()
        model.register_buffer(name, tensor)
        return weights_hash(model)

    zeros = torch.zeros(2, 3)
    different = [
        ("x", zeros), ("y", zeros), ("x", zeros.T), ("x", zeros.int()), ("x", zeros + 1e-7),
        ("x", torch.tensor([[0, 0, 0], [0, 0, 1e-7]])),
    ]  # fmt: skip
    assert len({holding(*one) for one in different}) == len(different)
    assert holding("x", zeros) == holding("x", zeros.clone())


def test_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(state, "FORMAT_VERSION", 99)
        checkpoint().save(tmp_path / "later.pt")
    with pytest.raises(
        CheckpointError, match=f"has format 99, this version reads format {state.FORMAT_VERSION}"
    ):
        Checkpoint.load(tmp_path / "later.pt")


@pytest.mark.parametrize("name", ["config", "model", "ema"])
def test_a_part_that_is_no_mapping_is_named(tmp_path, name):
    dataclasses.replace(checkpoint(), **{name: [1]}).save(tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=f"not a whole checkpoint: {name} must be a mapping"):
        Checkpoint.load(tmp_path / "odd.pt")


def test_a_run_is_not_continued_under_settings_that_change_what_is_learned(make_config):
    saved = checkpoint(make_config())
    check_resumable(
        saved, make_config("data.num_workers=1", "run.log_every=3", name="elsewhere"), source="a.pt"
    )
    with pytest.raises(CheckpointError, match=r"optim.lr: 0.002 in the checkpoint, 0.1 now"):
        check_resumable(saved, make_config("optim.lr=0.1"), source="a.pt")
    saved.config["optim"]["nesterov"] = True  # of another version
    with pytest.raises(CheckpointError, match=r"optim\.nesterov: True in the checkpoint, None now"):
        check_resumable(saved, make_config(), source="a.pt")
    del saved.config["optim"]["nesterov"], saved.config["optim"]["lr"]
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.1 in the checkpoint, 0\.002 now"):
        check_resumable(saved, make_config(), source="a.pt")


class LateCopies(CheckpointWriter):
    """A writer whose copies hold their values only later, as those of a GPU do."""

    def __init__(self):
        super().__init__()
        self.done, self.waits = threading.Event(), 0

    def _copy(self, checkpoint):
        copy, _ = super()._copy(checkpoint)
        values = [value.clone() for value in copy.model.values()]
        for value in copy.model.values():
            value.fill_(float("nan"))

        def ready():
            self.waits += 1
            assert self.done.wait(timeout=30)
            for value, own in zip(copy.model.values(), values, strict=True):
                value.copy_(own)

        return copy, ready


def test_training_goes_on_while_copies_are_awaited_by_the_thread_that_writes(tmp_path):
    saved, writer = checkpoint(), LateCopies()
    expected = saved.model["weight"].clone()
    writer.save(saved, tmp_path / "last.pt")  # returns although the copies are not done
    saved.model["weight"].fill_(7)  # the next step
    assert not (tmp_path / "last.pt").exists()
    writer.done.set()
    writer.wait()
    assert torch.equal(Checkpoint.load(tmp_path / "last.pt").model["weight"], expected)
    assert writer.waits == 1


def test_the_next_step_does_not_reach_what_is_being_written(tmp_path):
    class Held(CheckpointWriter):
        go = threading.Event()

        def _store(self, *arguments):
            self.go.wait(60)
            super()._store(*arguments)

    saved, writer = checkpoint(), Held()
    expected = saved.model["weight"].clone()
    writer.save(saved, tmp_path / "last.pt")
    saved.model["weight"].fill_(7)
    writer.go.set()
    writer.wait()
    assert torch.equal(Checkpoint.load(tmp_path / "last.pt").model["weight"], expected)
    assert 0 < writer.stalled < 60, "training has waited for the copy, and not for the disk"


def test_what_fails_while_copies_are_awaited_is_told_to_training(tmp_path):
    writer = LateCopies()
    writer.done.wait = lambda timeout: 1 / 0
    writer.save(checkpoint(), tmp_path / "last.pt")
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    assert not (tmp_path / "last.pt").exists()
