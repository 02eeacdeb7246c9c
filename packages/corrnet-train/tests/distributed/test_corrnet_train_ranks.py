"""1, 2 and 4 real processes train the same run."""

import json
import pickle
import random
import shutil
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from corrnet_train.checkpoint import sharded
from corrnet_train.checkpoint.folders import link, remove_unlinked
from corrnet_train.checkpoint.sharded import read_shards
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError, weights_hash
from corrnet_train.cli import app
from corrnet_train.config.load import config_to_dict, parse_config
from corrnet_train.distributed.ranks import Ranks, RanksError, joined_ranks
from corrnet_train.distributed.rendezvous import meet
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.training import trainer
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.trainer import Trainer
from video_data import open_shards

WORLD_SIZES = (1, 2, 4)
# One run moves on after each step: (processes, train.parallel, step after which it stops).
MOVES = [(4, "fsdp", 1), (2, "ddp", 2), (2, "fsdp", 3), (1, "ddp", None)]
SCRIPT = Path(__file__).with_name("ranks") / "many_runs.py"
ELASTIC = Path(__file__).with_name("ranks") / "elastic.py"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def runs(motionbench, model_folder, forks, tmp_path_factory):
    """What each rank saw, by world size and name of the run; the folder of the runs."""
    folder = tmp_path_factory.mktemp("ranks")

    def task(name, world_size, *overrides, run=None, **more):
        return {
            "name": name,
            **more,
            "overrides": [
                "model.name=r2d_tiny", "data.clip.num_frames=4",
                f"data.shards={motionbench[1]}", "data.num_workers=0",
                f"run.dir={folder / (run or f'{name}{world_size}')}", "run.log_every=1", "run.device=cpu",
                "optim.batch_size=8", "optim.epochs=1", "optim.name=sgd", "optim.lr=0.01",
                "eval.every_epochs=0", *overrides,
            ],
        }  # fmt: skip

    ema = ["optim.ema_decay=0.5"]
    patient = ["optim.epochs=4", "eval.every_epochs=0.25", "eval.patience=1"]
    frozen = [
        "model.name=corrnet_tiny", f"model.init_from={model_folder}", "model.frozen_stages=2",
        "data.clip.num_frames=8", "train.micro_batch=2", "optim.epochs=0.25", *ema,
    ]  # fmt: skip
    job = [
        {
            "world_size": n,
            "port": free_port(),
            "out": str(folder / f"out{n}"),
            "tasks": [
                task("sync", n, "train.batch_norm=sync"),
                task("local", n, "train.micro_batch=2", *ema),
                task("bad", n, "optim.batch_size=10", "train.micro_batch=4"),
                task("split", n, "optim.batch_size=64"),
                *([
                    task("resumed", n, "train.batch_norm=sync", run=f"sync{n}", resume=True),
                    task("begun", n, "train.batch_norm=sync", stop_at=2),
                    task("taken", n, "train.batch_norm=sync", run=f"begun{n}", resume=True,
                         taken_by=str(folder / f"sync{n}")),
                ] if n < 4 else []),
                *(
                    task(f"moved{index}", n, "train.micro_batch=2", *ema, f"train.parallel={parallel}", run="moved",
                         resume=index > 0, stop_at=stop)
                    for index, (size, parallel, stop) in enumerate(MOVES) if size == n
                ),
                {"name": "sync_batch_norm", "check": "sync_batch_norm"},
                {"name": "norm_of_gpus", "check": "norm_of_gpus"},
                {"name": "precise_statistics", "check": "precise_statistics"},
                {"name": "one_rank_fails", "check": "one_rank_fails"},
                {"name": "one_rank_has_a_bug", "check": "one_rank_has_a_bug"},
                {"name": "full_disk", "check": "full_disk", "args": [str(folder / f"full{n}")]},
                *([task("fsdp", n, "train.micro_batch=2", *ema, "train.parallel=fsdp")] if n < 4 else []),
                *([task("frozen", n, *frozen)] if n < 4 else []),
                *([task("patient", n, *patient)] if n == 2 else []),
                *([task("frozen_fsdp", n, *frozen, "train.parallel=fsdp")] if n == 2 else []),
                *([{"name": name, "check": name} for name in ("shards_step", "compiled_step")] if n == 2 else []),
                *([{"name": "first_steps", "check": "first_steps"}] if n == 4 else []),
            ],
        }
        for n in reversed(WORLD_SIZES)
    ]  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    done = forks(folder / "job.json", script=SCRIPT)
    assert done.wait(timeout=400) == 0, done.errors
    seen = {}
    for n in WORLD_SIZES:
        ranks = [json.loads((folder / f"out{n}.{rank}.json").read_text()) for rank in range(n)]
        for index, task in enumerate(next(group["tasks"] for group in job if group["world_size"] == n)):
            seen[task["name"], n] = [rank[index] for rank in ranks]
    return seen, folder


def figures(folder, name, world_size, kind, *keys):
    lines = read_metrics(folder / f"{name}{world_size}")
    return [[line[key] for key in keys] for line in lines if line["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sync", "local"])
def test_an_equal_global_batch_gives_equal_losses(runs, name):
    """With batch norm over the global batch, or over groups of a stated size; up to rounding in float32."""
    _, folder = runs
    alone = torch.tensor(figures(folder, name, 1, "train", "loss", "grad_norm"))
    assert alone.shape == (4, 2)
    for world_size in (2, 4):
        together = torch.tensor(figures(folder, name, world_size, "train", "loss", "grad_norm"))
        torch.testing.assert_close(together[0, 0], alone[0, 0], rtol=1e-6, atol=0)
        torch.testing.assert_close(together[:, 0], alone[:, 0], rtol=1e-4, atol=0)
        torch.testing.assert_close(together[:, 1], alone[:, 1], rtol=5e-3, atol=0)
    weights = [Checkpoint.load(folder / f"{name}{n}" / "checkpoints" / "last.pt").model for n in WORLD_SIZES]
    for other in weights[1:]:
        for key, value in weights[0].items():
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_all_ranks_end_early_after_the_same_step(runs):
    """Of eight videos no more than nine evaluations in a row can each be better than all before."""
    seen, folder = runs
    steps = {rank["step"] for rank in seen["patient", 2]}
    assert len(steps) == 1 and max(steps) <= 10
    accuracies = [line["video_top1"] for line in read_metrics(folder / "patient2") if line["kind"] == "eval"]
    assert len(accuracies) == max(steps)
    assert accuracies[-1] <= max(accuracies[:-1])
    last = Checkpoint.load(folder / "patient2" / "checkpoints" / "last.pt")
    assert (last.step, last.stale_evaluations) == (max(steps), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen2", "frozen_fsdp2"])
def test_frozen_stages_stay_as_they_were_however_the_model_is_shared(runs, model_folder, name):
    _, folder = runs
    before = VideoClassifier.from_checkpoint(model_folder, device="cpu").model.state_dict()
    alone, shared = (
        Checkpoint.load(folder / run / "checkpoints" / "last.pt").model for run in ("frozen1", name)
    )
    for key, value in before.items():
        is_frozen = key.startswith(("backbone.stem.", "backbone.res2."))
        assert torch.equal(shared[key], value) == is_frozen, key
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(shared[key], alone[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_sample_is_used_once_an_epoch_in_the_same_global_batches(runs, motionbench, world_size):
    seen, _ = runs
    ranks = [rank["keys"] for rank in seen["sync", world_size]]
    assert all(len(steps) == 4 for steps in ranks)
    batches = [sorted(key for steps in ranks for key in steps[number]) for number in range(4)]
    alone = [sorted(keys) for keys in seen["sync", 1][0]["keys"]]
    assert batches == alone
    counts = Counter(key for batch in batches for key in batch)
    assert set(counts.values()) == {1}
    assert set(counts) == {record.key for record in open_shards(motionbench[1]).samples("train")}


@pytest.mark.slow
def test_evaluation_counts_each_video_once_for_any_number_of_ranks(runs, motionbench):
    _, folder = runs
    num_videos = open_shards(motionbench[1]).num_samples("val")
    results = [figures(folder, "sync", n, "eval", "num_videos", "video_top1") for n in WORLD_SIZES]
    assert results[0][0][0] == num_videos
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_corrnet_eval_by_three_processes_writes_what_one_does(runs, motionbench, forks, tmp_path):
    """A number that does not divide that of the videos; the first process alone prints and writes."""
    views = [
        "--split=test",
        "--num-clips=2",
        "--batch-size=1",
        "--num-workers=0",
        "--device=cpu",
        "--output=out",
    ]
    printed = []
    for name, processes in (("one", 0), ("three", 3)):
        (tmp_path / name).mkdir()
        done = forks(
            "eval", runs[1] / "local2", motionbench[1], *views, processes=processes, cwd=tmp_path / name
        )
        assert done.wait() == 0, done.errors
        printed.append(done.output)
    assert "videos: 16" in printed[0] and printed[0] == printed[1]
    for name in ("result.json", "predictions.csv", "classes.csv", "report.html"):
        one, three = (tmp_path / folder / "out" / name for folder in ("one", "three"))
        assert one.read_bytes() == three.read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_wrong_sizes_stop_every_rank_with_what_is_allowed(runs, world_size):
    seen, folder = runs
    messages = {rank["error"] for rank in seen["bad", world_size]}
    assert len(messages) == 1
    message = messages.pop()
    assert message.startswith("optim.batch_size=10 is no multiple of train.micro_batch=4")
    assert not (folder / f"bad{world_size}").exists()
    (message,) = {rank["error"] for rank in seen["split", world_size]}
    assert "optim.batch_size=64 is more than the 32 samples of split train" in message


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_what_one_rank_meets_stops_all(runs, world_size):
    seen, _ = runs
    for rank in seen["one_rank_fails", world_size]:
        assert rank["error"].endswith("no such shard")
        assert world_size == 1 or f"rank {world_size - 1} of {world_size} on " in rank["error"]
    *others, last = seen["one_rank_has_a_bug", world_size]
    assert last["error"] == "KeyError: 'no such name'"
    for rank in others:
        assert rank["error"].startswith(f"WorkError: rank {world_size - 1} of {world_size} on ")
        assert rank["error"].endswith(": KeyError: 'no such name'")


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_finished_run_trains_no_further(runs, world_size):
    seen, _ = runs
    assert [(rank["step"], rank["keys"]) for rank in seen["resumed", world_size]] == [(4, [])] * world_size


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("norm", ["sync_batch_norm", "norm_of_gpus"])
def test_batch_norm_over_all_processes_is_batch_norm_over_all_their_clips(runs, world_size, norm):
    seen, _ = runs
    assert [rank["error"] for rank in seen[norm, world_size]] == [None] * world_size


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_precise_statistics_are_those_of_the_clips_of_all_processes(runs, world_size):
    seen, _ = runs
    assert [rank["error"] for rank in seen["precise_statistics", world_size]] == [None] * world_size


def test_what_torchrun_sets_is_checked(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.from_environment() == Ranks()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"started by torchrun.*not set: WORLD_SIZE, LOCAL_RANK"):
        Ranks.from_environment()
    for name in ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match=r"RANK=1 of WORLD_SIZE=1.*ranks count from 0"):
        Ranks.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match=r"whole numbers.*WORLD_SIZE='two'"):
        Ranks.from_environment()


def test_a_process_whose_torchrun_is_gone_does_not_wait_for_it(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "run", "TORCHELASTIC_USE_AGENT_STORE": True,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(RanksError, match="the torchrun that started it has ended"),
        joined_ranks("cpu", timeout=3600),
    ):
        pass


def test_a_store_that_goes_while_a_run_is_set_up_is_no_bug(motionbench, tmp_path, monkeypatch):
    """As of a torchrun that is killed."""

    def lost(*args, **kwargs):
        raise torch.distributed.DistNetworkError("Broken pipe")

    monkeypatch.setattr(trainer, "Trainer", lost)
    recipe = [f"data.shards={motionbench[1]}", f"run.dir={tmp_path}/run", "run.device=cpu"]
    result = CliRunner().invoke(app, ["train", "motionbench", *recipe])
    assert result.exit_code == 1
    assert "lost another process, whose own message says why: Broken pipe" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_split_and_copied_models_learn_the_same(runs):
    """Losses up to rounding in float32; four processes are among the moves of the next test but one."""
    _, folder = runs
    alone = torch.tensor(figures(folder, "local", 1, "train", "loss"))
    for world_size in (1, 2):
        split = torch.tensor(figures(folder, "fsdp", world_size, "train", "loss"))
        torch.testing.assert_close(split, alone, rtol=1e-4, atol=0)
        evaluations = [figures(folder, name, world_size, "eval", "video_top1") for name in ("fsdp", "local")]
        assert evaluations[0] == evaluations[1]


@pytest.mark.slow
def test_a_split_step_is_that_of_copies_in_every_precision(runs):
    seen, _ = runs
    assert [rank["error"] for rank in seen["shards_step", 2]] == [None] * 2


@pytest.mark.slow
def test_a_compiled_step_of_several_processes_is_that_of_an_eager_one(runs):
    seen, _ = runs
    assert [rank["error"] for rank in seen["compiled_step", 2]] == [None] * 2


@pytest.mark.slow
def test_a_run_that_goes_on_sums_gradients_in_the_same_order(runs):
    seen, _ = runs
    assert [rank["error"] for rank in seen["first_steps", 4]] == [None] * 4


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_full_disk_of_one_process_stops_all_and_leaves_the_last_checkpoint(runs, world_size):
    seen, folder = runs
    for rank in seen["full_disk", world_size]:
        assert rank["error"].startswith("the checkpoint was not written: "), rank
    assert Checkpoint.load(folder / f"full{world_size}" / "last.pt").step == 1


@pytest.mark.slow
def test_a_run_moves_to_other_numbers_of_processes_split_or_not(runs):
    """A step each on four processes, split, on two with copies and split, and on one: the losses of one process."""
    seen, folder = runs
    steps = [[rank["step"] for rank in seen[f"moved{i}", size]] for i, (size, _, _) in enumerate(MOVES)]
    assert steps == [[1] * 4, [2] * 2, [3] * 2, [4]]
    lines = [line for line in read_metrics(folder / "moved") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    alone = torch.tensor(figures(folder, "local", 1, "train", "loss"))[:, 0]
    torch.testing.assert_close(torch.tensor([line["loss"] for line in lines]), alone, rtol=1e-4, atol=0)
    moved = [
        sorted(key for rank in seen[f"moved{i}", size] for step in rank["keys"] for key in step)
        for i, (size, _, _) in enumerate(MOVES)
    ]
    assert moved == [sorted(keys) for keys in seen["local", 1][0]["keys"]]


@pytest.mark.slow
def test_one_process_evaluates_a_checkpoint_in_shards(runs, motionbench):
    seen, folder = runs
    run = folder / "fsdp2"
    classifier = VideoClassifier.from_checkpoint(run, device="cpu")
    assert {rank["hash"] for rank in seen["fsdp", 2]} == {weights_hash(classifier.model)}
    ((top1,),) = figures(folder, "fsdp", 2, "eval", "video_top1")
    result = evaluate(classifier, open_shards(motionbench[1]), "val", num_clips=1)
    assert result.video_top1 == top1
    for path in (run / "checkpoints" / "best.pt", (run / "checkpoints" / "last.pt").resolve()):
        assert weights_hash(VideoClassifier.from_checkpoint(path).model) == seen["fsdp", 2][0]["hash"]


@pytest.mark.slow
def test_shards_that_are_damaged_or_would_run_code_are_refused(runs, tmp_path):
    _, folder = runs
    good = (folder / "fsdp2" / "checkpoints" / "last.pt").resolve()

    def refused(name, content, match, *, digests=True):
        copied = tmp_path / "copied"
        shutil.copytree(good, copied)
        if not digests:  # as who makes them right
            rest = torch.load(copied / "rest.pt", weights_only=True)
            torch.save({key: value for key, value in rest.items() if key != "files"}, copied / "rest.pt")
        (copied / name).unlink() if content is None else (copied / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            Checkpoint.load(copied)
        shutil.rmtree(copied)

    shard = (good / "__1_0.distcp").read_bytes()
    refused(
        "__1_0.distcp", shard[: len(shard) // 2], "not a readable checkpoint: it is damaged: .*__1_0.distcp"
    )
    refused("__1_0.distcp", shard[: len(shard) // 2], "not a readable checkpoint", digests=False)
    refused(
        "__1_0.distcp", (good / "__0_0.distcp").read_bytes(), "__1_0.distcp is not the file that was written"
    )
    rng = random.Random(0)
    for name in ("__0_0.distcp", "__1_0.distcp", ".metadata", "rest.pt"):
        content = (good / name).read_bytes()
        for place in (*rng.sample(range(len(content)), 4), len(content) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            refused(name, bytes(flipped), "not a readable checkpoint: .*damaged")
    refused("__1_0.distcp", None, "not a readable checkpoint: .*__1_0.distcp")
    refused("rest.pt", None, "no checkpoint at")
    refused("rest.pt", b"", "not a readable checkpoint")
    refused(
        ".metadata", pickle.dumps(print), "asks for builtins.print, which describes no shards", digests=False
    )
    description = pickle.loads((good / ".metadata").read_bytes())
    next(iter(description.state_dict_metadata.values())).chunks.pop()
    refused(".metadata", pickle.dumps(description), "the shards hold .* values of model/", digests=False)


@pytest.mark.slow
def test_a_checkpoint_is_read_again_when_training_moves_its_link_on_meanwhile(runs, tmp_path, monkeypatch):
    _, folder = runs
    for name, run in (("shards-00000001", "fsdp1"), ("shards-00000002", "fsdp2")):
        shutil.copytree(folder / run / "checkpoints" / "last.pt", tmp_path / name)
    last = tmp_path / "last.pt"
    link(last, tmp_path / "shards-00000001")

    def read(folder):
        if folder.name == "shards-00000001":
            link(last, tmp_path / "shards-00000002")
            remove_unlinked(tmp_path)
        return read_shards(folder)

    monkeypatch.setattr(sharded, "read_shards", read)
    assert len(Checkpoint.load(last).rng) == 2, "the checkpoint of two processes"
    assert not (tmp_path / "shards-00000001").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["link", "shards"])
def test_a_split_run_goes_on_from_what_is_left_of_its_checkpoints(runs, forks, tmp_path, lost):
    """The only name of the newest shards is lost; or the shards are, beside which there is a step-*.pt."""
    _, folder = runs
    shutil.copytree(folder / "fsdp1", tmp_path / "run", symlinks=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    last, newest = checkpoints / "last.pt", (checkpoints / "last.pt").resolve()
    (checkpoints / "best.pt").unlink()
    if lost == "link":
        last.unlink()
        left = newest
    else:
        left = checkpoints / "step-00000004.pt"
        Checkpoint.load(last).save(left)
        shutil.rmtree(newest)
    recipe = parse_config(Checkpoint.load(left).config)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": tmp_path / "run"})})
    with pytest.raises(
        ValueError, match=f"already holds a run, whose newest intact .* is {left} of step 4: continue"
    ):
        Trainer(recipe)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config_to_dict(recipe)))
    goes_on = {
        "link": ["resume", tmp_path / "run"],
        "shards": ["train", tmp_path / "recipe.yaml", "--requeue"],
    }
    done = forks(*goes_on[lost], processes=1)
    assert done.wait() == 0, done.errors
    assert f"going on from the newest intact checkpoint, {left} of step 4" in done.errors
    assert Checkpoint.load(last).step == 4 and last.is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_go_on_from_what_another_run_has_left_while_they_started(runs, world_size):
    for begun, taken, whole in zip(
        *(runs[0][name, world_size] for name in ("begun", "taken", "sync")), strict=True
    ):
        assert (begun["step"], taken["step"]) == (2, whole["step"])
        assert taken["keys"] == []  # what it had read before is two steps of the run
        assert taken["hash"] == whole["hash"]


@pytest.mark.slow
def test_killed_processes_are_started_again_and_the_bits_stay(runs, forks, tmp_path):
    """One of two processes is killed in the third step; the run ends as the one of two that nobody has killed."""
    _, folder = runs
    overrides = Checkpoint.load(folder / "fsdp2" / "checkpoints" / "last.pt").config
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(overrides))
    train = ["train", recipe, f"run.dir={tmp_path / 'run'}", "run.checkpoint_every=1"]
    done = forks(*train, script=ELASTIC, processes=2, restarts=1, cwd=tmp_path)
    assert done.wait() == 0, done.errors[-3000:]
    assert "lost another process" in done.errors
    assert (tmp_path / "killed").read_text() == "rank 1 in step 3"
    lines = [
        [(line["kind"], line["step"], line.get("loss")) for line in read_metrics(run)]
        for run in (folder / "fsdp2", tmp_path / "run")
    ]
    assert lines[0] == lines[1]
    straight, killed = (
        Checkpoint.load(run / "checkpoints" / "last.pt") for run in (folder / "fsdp2", tmp_path / "run")
    )
    assert straight.model.keys() == killed.model.keys()
    for name, value in straight.model.items():
        assert torch.equal(value, killed.model[name]), name
    momentum = [checkpoint.optimizer["state"] for checkpoint in (straight, killed)]
    assert momentum[0].keys() == momentum[1].keys() and len(momentum[0]) > 10
    for number, state in momentum[0].items():
        assert torch.equal(state["momentum_buffer"], momentum[1][number]["momentum_buffer"])
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    # The folder without a number was written before the last evaluation.
    assert names == ["best.pt", "last.pt", "shards-00000004-2"]


@pytest.mark.slow
def test_a_bug_of_one_rank_ends_all_and_shows_its_traceback(make_config, forks, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config_to_dict(make_config())))
    recipe = tmp_path / "recipe.yaml"
    done = forks("train", recipe, script=ELASTIC.with_name("bug.py"), processes=2, cwd=tmp_path)
    assert done.wait() != 0
    assert (
        done.errors.count("Traceback (most recent call last)") >= 1 and "\nKeyError: 'a bug'\n" in done.errors
    )
    assert "error: this is a bug in corrnet" in done.errors
    assert "exitcode  : 70" in done.errors


def test_a_run_that_was_refused_is_not_continued_by_the_next_start(make_config, tmp_path, monkeypatch):
    """torchrun starts processes again whatever ended them; only those that had begun go on."""
    config = make_config("optim.epochs=0.5")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    store = torch.distributed.HashStore()

    def start(restarts):
        @contextmanager
        def joined(*args, **kwargs):
            yield Ranks(restarts=restarts, kept=store)

        monkeypatch.setattr("corrnet_train.distributed.ranks.joined_ranks", joined)
        result = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml")])
        return result.exit_code, "already holds a run" in result.stderr

    Trainer(config).run()
    assert [start(restarts) for restarts in (0, 1)] == [(2, True)] * 2
    shutil.rmtree(config.run.dir)
    assert [start(restarts) for restarts in (2, 3)] == [(0, False)] * 2  # it has begun, and goes on


def test_one_process_alone_cannot_split_a_model(make_config):
    with pytest.raises(ValueError, match=r"train.parallel=fsdp splits the model.*start it with torchrun"):
        Trainer(make_config("train.parallel=fsdp"))


def test_a_start_ignores_what_is_left_of_the_start_before():
    """One store over all restarts, as torchrun keeps it; the world may shrink."""
    store = torch.distributed.HashStore()

    def start(world_size, delays):
        def one(rank):
            time.sleep(delays[rank])
            return meet(store, rank, world_size, timeout=10)

        with ThreadPoolExecutor(world_size) as pool:
            return set(pool.map(one, range(world_size)))

    sessions = [start(3, [0, 0, 0]), start(3, [0, 0.05, 0.1]), start(2, [0.1, 0]), start(1, [0])]
    assert [len(names) for names in sessions] == [1, 1, 1, 1]
    assert len(set.union(*sessions)) == 4
    with pytest.raises(TimeoutError, match="ranks 1, 2 did not come"):
        meet(store, 0, 3, timeout=0.1)
    with pytest.raises(TimeoutError, match="rank 0 did not come"):
        meet(store, 1, 3, timeout=0.1)
