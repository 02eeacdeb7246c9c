"""Checkpoints in shards, by a group of one process; those of several are in `distributed`."""

import pickle
import shutil
import threading
import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from corrnet_train.checkpoint.async_writer import ShardedCheckpointWriter
from corrnet_train.checkpoint.sharded import read_shards, write_shards
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.distributed.ranks import Ranks

TENSORS = {
    ("model", "weight"): torch.arange(24, dtype=torch.float32).reshape(6, 4),
    ("model", "steps"): torch.tensor([3, 2**40]),
    ("optimizer", "state", 0, "average"): torch.linspace(0, 1, 5, dtype=torch.bfloat16),
    ("optimizer", "state", 1, "average"): torch.linspace(1, 2, 7, dtype=torch.float64),
}


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def nested(tensors, **others):
    content = dict(others)
    for (*path, name), tensor in tensors.items():
        parent = content
        for step in path:
            parent = parent.setdefault(step, {})
        parent[name] = tensor
    return content


def sharded(mesh, tensor):
    return distribute_tensor(tensor, mesh, [Shard(0)])


@pytest.fixture
def folder(mesh, tmp_path):
    content = nested(
        {place: sharded(mesh, tensor) for place, tensor in TENSORS.items()}, step=5, classes=["a", "b"]
    )
    content["optimizer"]["lr"] = 0.1
    called = []
    write_shards(
        content,
        tmp_path / "shards",
        group=None,
        finish=lambda: called.append(read_shards(tmp_path / "shards")),
    )
    assert len(called) == 1, "rank 0 finishes when all is on disk and can be read"
    return tmp_path / "shards"


def test_what_is_written_is_read_back(folder):
    content = read_shards(folder)
    assert content.keys() == {"step", "classes", "model", "optimizer"}
    assert (content["step"], content["classes"], content["optimizer"]["lr"]) == (5, ["a", "b"], 0.1)
    for place, tensor in TENSORS.items():
        found = content
        for step in place:
            found = found[step]
        assert not isinstance(found, DTensor) and found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_reading_warns_of_nothing_and_needs_no_group(folder, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "is_available", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_shards(folder)


def test_a_changed_file_is_named(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == ".metadata" and "rest.pt" in names and len(names) >= 3
    for name in names:
        content = (folder / name).read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        (folder / name).write_bytes(flipped)
        with pytest.raises(ValueError, match=f"it is damaged: .*{'' if name == 'rest.pt' else name}"):
            read_shards(folder)
        (folder / name).write_bytes(content)
    read_shards(folder)


def test_a_file_of_another_checkpoint_is_named(mesh, folder, tmp_path):
    changed = {place: sharded(mesh, tensor + 1) for place, tensor in TENSORS.items()}
    write_shards(nested(changed), tmp_path / "other", group=None, finish=lambda: None)
    name = next(path.name for path in folder.glob("*.distcp"))
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ValueError, match=f"damaged: {name} is not the file that was written"):
        read_shards(folder)


def test_a_description_runs_no_code_and_holds_all_values(folder):
    rest = torch.load(folder / "rest.pt", weights_only=True)
    torch.save(rest | {"files": {}}, folder / "rest.pt")  # without digests
    description = pickle.loads((folder / ".metadata").read_bytes())
    (folder / ".metadata").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"asks for builtins\.print, which describes no shards"):
        read_shards(folder)
    (folder / ".metadata").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="holds no description of shards"):
        read_shards(folder)
    description.state_dict_metadata["model/weight"].chunks.pop()
    (folder / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(ValueError, match="the shards hold 0 of 24 values of model/weight"):
        read_shards(folder)


def test_a_disk_that_refuses_is_an_error_of_the_system(mesh, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"the checkpoint was not written: rank 0: \w+Error .*file"):
        write_shards(
            nested({("weight",): sharded(mesh, torch.ones(2))}), tmp_path / "file" / "shards",
            group=None, finish=lambda: None,
        )  # fmt: skip


def checkpoint(mesh, step=5, **changes):
    values = {
        "step": step, "config": {}, "classes": ("a", "b"), "optimizer": {}, "loader": {}, "rng": {},
        "model": {"weight": sharded(mesh, torch.full((2, 3), float(step)))}, "best_score": 0.5, "train_seconds": 1.5,
    } | changes  # fmt: skip
    return Checkpoint(**values)


@pytest.fixture
def writer(mesh):
    return ShardedCheckpointWriter(Ranks(launched=True), timeout=30)


def shards(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def test_names_of_one_step_lead_to_one_folder(mesh, writer, tmp_path):
    last, best, kept = (tmp_path / name for name in ("last.pt", "best.pt", "step-00000005.pt"))
    writer.save(checkpoint(mesh), last, kept)
    writer.save(checkpoint(mesh), best)  # what is written already gets another name
    writer.wait()
    assert shards(tmp_path) == ["shards-00000005"]
    assert {path.resolve().name for path in (last, best, kept)} == {"shards-00000005"}
    assert Checkpoint.load(best).step == 5 and Checkpoint.load(best).model["weight"].eq(5).all()
    writer.save(checkpoint(mesh, 6), last)
    writer.wait()
    assert shards(tmp_path) == ["shards-00000005", "shards-00000006"], "best.pt and step-*.pt keep the first"
    for path in (best, kept):
        path.unlink()
    writer.save(checkpoint(mesh, 7), last)
    writer.wait()
    assert shards(tmp_path) == ["shards-00000007"], "what has no name goes"


def test_another_state_of_one_step_gets_a_folder_of_its_own(mesh, writer, tmp_path):
    last, best, kept = (tmp_path / name for name in ("last.pt", "best.pt", "step-00000005.pt"))
    writer.save(checkpoint(mesh, evaluation_due=True), kept)
    writer.save(checkpoint(mesh, evaluation_due=False, best_score=0.6), best)
    writer.wait()
    other = ShardedCheckpointWriter(Ranks(launched=True), timeout=30)  # of a run that was resumed
    other.save(checkpoint(mesh, best_score=0.7), last)
    other.wait()
    assert shards(tmp_path) == ["shards-00000005", "shards-00000005-2", "shards-00000005-3"]
    assert [Checkpoint.load(path).best_score for path in (kept, best, last)] == [0.5, 0.6, 0.7]


def test_the_copy_is_taken_when_saving_begins(mesh, tmp_path):
    class Held(ShardedCheckpointWriter):
        go = threading.Event()

        def _store(self, *arguments):
            self.go.wait(60)
            super()._store(*arguments)

    saved, writer = checkpoint(mesh), Held(Ranks(launched=True), timeout=30)
    saved.model["copied"] = distribute_tensor(torch.ones(3), mesh, [Replicate()])
    writer.save(saved, tmp_path / "last.pt")
    for tensor in saved.model.values():
        tensor.zero_()
    writer.go.set()
    writer.wait()
    loaded = Checkpoint.load(tmp_path / "last.pt")
    assert loaded.model["weight"].eq(5).all() and loaded.model["copied"].eq(1).all()


def test_what_could_not_be_written_is_told_at_the_next_save(mesh, writer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    writer.save(checkpoint(mesh), tmp_path / "file" / "last.pt")
    with pytest.raises(OSError, match="the checkpoint was not written"):
        writer.save(checkpoint(mesh, 6), tmp_path / "last.pt")
    writer.save(checkpoint(mesh, 6), tmp_path / "last.pt")
    writer.wait()
    assert Checkpoint.load(tmp_path / "last.pt").step == 6


def test_damaged_shards_are_refused_by_the_name_that_leads_to_them(mesh, writer, tmp_path):
    writer.save(checkpoint(mesh), tmp_path / "last.pt")
    writer.wait()
    (tmp_path / "last.pt" / ".metadata").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"last\.pt is not a readable checkpoint: .*damaged: \.metadata"
    ):
        Checkpoint.load(tmp_path / "last.pt")
