"""`corrnet doctor`: on one machine, and with processes that are absent or silent.

`test_corrnet_train_examples.py` runs it under torchrun.
"""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore
from typer.testing import CliRunner

import corr_ops
from corrnet_train.cli import app
from corrnet_train.distributed.ranks import Ranks, RanksError
from corrnet_train.doctor import Options, choose_checks, examine, group, machine
from corrnet_train.doctor.board import Board, connect
from corrnet_train.doctor.checkup import Check, Context, run_checks
from corrnet_train.doctor.finding import Finding
from corrnet_train.doctor.folder import run_folder
from video_data import open_shards

runner = CliRunner()
SCRIPT = Path(__file__).parents[1] / "distributed" / "ranks" / "silent_rank.py"


def doctor(*arguments, code=0):
    result = runner.invoke(app, ["doctor", "--device", "cpu", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def context():
    ranks = Ranks()
    return Context(options=Options(device="cpu", timeout=0.5), ranks=ranks, board=Board(ranks, HashStore()))


def by_name(report):
    return {check["name"]: check for check in report["checks"]}


def test_a_laptop_is_checked_with_its_shards_and_run_folder(motionbench, tmp_path):
    output = doctor(
        "--shards", motionbench[1], "--dir", tmp_path / "new" / "run", "--json", tmp_path / "r.json"
    )
    report = json.loads((tmp_path / "r.json").read_text())
    checks = by_name(report)
    assert report["ok"] and report["world_size"] == 1
    assert list(checks) == [
        "processes", "versions", "device", "operator", "shards", "decoder", "run folder", "shared memory", "cores",
        "open files",
    ]  # fmt: skip
    for name, check in checks.items():
        assert any(
            name in line and line.startswith(check["summary"]["status"]) for line in output.splitlines()
        )
    (versions,) = checks["versions"]["ranks"]
    assert versions["figures"]["torch"] == torch.__version__
    (operator,) = checks["operator"]["ranks"]
    served = str(corr_ops.explain(torch.zeros(1, 1, 1, 1, 1)))
    assert operator["figures"]["cpu float32"] == served and f"on cpu serves {served}" in output
    assert "train 32, val 8, test 16 samples in 6 shards" in checks["shards"]["summary"]["result"]
    assert checks["decoder"]["summary"]["figures"]["frames_per_second"] > 10
    assert checks["run folder"]["summary"]["figures"]["free_bytes"] > 0
    assert not (tmp_path / "new").exists()


def test_help_has_examples():
    output = runner.invoke(app, ["doctor", "--help"], env={"COLUMNS": "200"}).output
    assert "torchrun --nproc-per-node 8 -m corrnet_train.cli doctor" in output


def test_json_to_standard_output_is_nothing_but_json():
    result = runner.invoke(app, ["doctor", "--device", "cpu", "--json", "-"])
    assert json.loads(result.stdout)["ok"]


def test_damaged_shards_and_a_folder_that_cannot_be_written_fail(motionbench, tmp_path):
    broken = shutil.copytree(motionbench[1], tmp_path / "shards")
    tar = sorted(broken.glob("*.tar"))[0]
    os.truncate(tar, tar.stat().st_size - 512)
    (tmp_path / "file").touch()
    output = doctor("--shards", broken, "--dir", tmp_path / "file" / "run", code=1)
    assert f"{tar.name} has" in output and "the manifest says" in output and "corrnet verify" in output
    assert "speed not measured, the shards have failed" in output
    assert "failed   run folder" in output and "on storage that answers" in output


def test_a_damaged_sample_is_found(motionbench, tmp_path):
    """Sizes are right, so that only reading finds it."""
    broken = shutil.copytree(motionbench[1], tmp_path / "shards")
    shards = open_shards(broken)
    tar, sample = broken / f"{shards.manifest.shards[0].name}.tar", shards.sample("train", 0)
    content = bytearray(tar.read_bytes())
    content[sample.offset + 10] ^= 1
    tar.write_bytes(content)
    assert "do not have the hash in the index" in doctor("--shards", broken, code=1)


def test_unknown_models_and_devices_are_named():
    assert "did you mean 'corrnet26'" in doctor("--model", "corrnet2", code=2)
    result = runner.invoke(app, ["doctor", "--device", "tpu"], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and "unknown device 'tpu'" in result.output
    assert "skipped  operator" in result.output  # it would run on that device


def test_a_check_that_hangs_is_a_failure_in_time(context):
    def hang(context):
        time.sleep(20)

    def crash(context):
        raise KeyError("gone")

    checks = [
        Check(name="storage", run=hang, advice="mount it again"),
        Check(name="other", run=crash, advice="mend it"),
        Check(name="next", run=lambda context: Finding(result="fine"), advice=""),
        Check(name="after", run=hang, advice="", needs=("storage",)),
    ]
    start = time.perf_counter()
    results = run_checks(checks, context)
    assert time.perf_counter() - start < 5
    found = [(result.summary.status, result.summary.result) for result in results]
    assert found == [
        ("failed", "no answer within 0.5 s"),
        ("failed", "KeyError: 'gone'"),
        ("ok", "fine"),
        ("skipped", "after what was found for storage"),
    ]
    assert results[0].summary.advice == "mount it again"


def test_a_process_whose_store_is_gone_still_says_what_it_found(context):
    """As when the machine of rank 0 dies: the others are told as absent, once."""

    class Gone:
        def check(self, *arguments):
            raise RuntimeError("Broken pipe")

        set = get = check

    context.ranks = Ranks(rank=1, world_size=2, local_rank=1, local_world_size=2, launched=True)
    context.board = Board(context.ranks, HashStore())
    context.board._store = Gone()
    context.names = ["rank 0", "rank 1"]
    checks = [
        Check(name=name, run=lambda context: Finding(result="fine"), advice="")
        for name in ("first", "second")
    ]
    first, second = run_checks(checks, context)
    assert first.failed and first.summary.result.startswith("rank 0: did not answer within")
    assert (second.summary.status, second.summary.result) == ("ok", "fine")


def test_one_process_on_a_gpu_is_not_told_that_its_network_is_slow(context):
    context.device = torch.device("cuda")
    found = group.bandwidth(context)
    assert found.status == "ok" and "not measured: one process" in found.result


@pytest.mark.parametrize(("free", "status"), [(16 << 20, "failed"), (150 << 20, "warning"), (1 << 40, "ok")])
def test_shared_memory_is_compared_with_what_workers_take(context, monkeypatch, free, status):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    found = machine.shared_memory(context)
    assert found.status == status
    assert (status == "ok") == (not found.advice)


@pytest.mark.parametrize(("free", "status"), [(78, "ok"), (12, "warning")])
def test_a_gpu_that_another_program_uses_is_told(context, monkeypatch, free, status):
    gpu = SimpleNamespace(name="GPU", major=9, minor=0, uuid="GPU-1")
    stand_ins = {
        "is_available": lambda: True, "device_count": lambda: 1, "set_device": lambda index: None,
        "get_device_properties": lambda device: gpu, "mem_get_info": lambda device: (free << 30, 80 << 30),
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    context.options = Options(device="cuda")
    found = machine.device(context)
    assert context.device == torch.device("cuda", 0)
    assert found.status == status and ("only 12.0 of 80.0 GiB" in found.result) == (status == "warning")
    assert (found.figures["capability"], found.figures["memory_gib"]) == ("9.0", 80)


def test_few_open_files_are_told_with_the_command(context, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (128, 4096))
    found = machine.open_files(context)
    assert (found.status, found.advice) == ("failed", "ulimit -n 4096")


def test_cores_that_processes_share_are_counted_once():
    def finding(host, cores, quota=64):
        figures = {"host": host, "cores": cores, "quota": quota, "num_workers": 3, "local_world_size": 2}
        return Finding(result="", figures=figures)

    names = ["rank 0 on a", "rank 1 on a", "rank 2 on b", "rank 3 on b"]
    own = [finding("a", [0, 1, 2, 3]), finding("a", [4, 5, 6, 7])] + 2 * [finding("b", list(range(8)))]
    found = machine.enough_cores(own, names)
    assert found.status == "ok" and found.figures["cores_per_process"] == 4
    shared = [*own[:2], *2 * [finding("b", list(range(6)))]]
    found = machine.enough_cores(shared, names)
    assert found.status == "warning" and found.result.startswith("rank 2 on b: cores of a process: 3,")
    assert "--cpus-per-task" in found.advice and "data.num_workers=2" in found.advice
    limited = [*own[:2], *2 * [finding("b", list(range(8)), quota=4)]]
    assert machine.enough_cores(limited, names).figures["cores_per_process"] == 2


def test_machines_that_differ_are_named():
    same, other = ({"torch": version, "PyAV": "18.1.0"} for version in ("2.13.0", "2.9.0"))
    findings = [Finding(result="", figures=figures) for figures in (same, other)]
    found = machine.same_versions(findings, ["rank 0 on a", "rank 1 on b"])
    assert found.result == "torch differs: rank 0 on a has 2.13.0, rank 1 on b has 2.9.0"
    gpus = [Finding(result="", figures={"uuid": uuid, "name": "GPU"}) for uuid in ("x", "y", "x")]
    assert machine.devices(gpus, ["rank 0", "rank 1", "rank 2"]).result == "rank 0, rank 2 use one GPU"


def test_a_machine_that_knows_itself_by_a_loopback_address_is_told(monkeypatch):
    def told(*machines):
        findings = [Finding(result="", figures={"host": host, "address": ip}) for host, ip in machines]
        return machine.processes(findings, [f"rank {rank}" for rank in range(len(machines))])

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert told(("a", "127.0.1.1"), ("a", "127.0.1.1")).status == "ok"
    found = told(("a", "10.0.0.1"), ("b", "127.0.1.1"))
    assert found.status == "warning" and found.result.endswith(" cannot use: b (127.0.1.1)")
    assert "GLOO_SOCKET_IFNAME" in found.advice
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert told(("a", "10.0.0.1"), ("b", "127.0.1.1")).status == "ok"


def test_only_processes_of_torchrun_are_checked_together():
    names = [check.name for check in choose_checks(Options(), launched=True)]
    assert names[3:6] == ["process group", "all-reduce", "bandwidth"]
    assert "bandwidth" not in [check.name for check in choose_checks(Options(), launched=False)]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def with_a_silent_rank(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, str(free_port()), "--device", "cpu", *map(str, arguments)],
        timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_rank_that_falls_silent_is_named_in_time(tmp_path):
    start = time.perf_counter()
    done = with_a_silent_rank("--timeout", 5, "--dir", tmp_path / "run", "--model", "r2d_tiny")
    assert time.perf_counter() - start < 60
    assert done.returncode == 1, done.stdout + done.stderr
    said = f"rank 1 on {socket.gethostname()}: did not answer within 10 s"
    lines = done.stdout.splitlines()
    number = next(n for n, line in enumerate(lines) if said in line)
    assert done.stdout.count(said) == 1
    # Rank 0, which waits in the collective, says so in the line before.
    assert lines[number - 1].startswith("failed   all-reduce ") and "rank 0 on" in lines[number - 1]


def test_a_rank_that_never_came_is_named_in_time(monkeypatch):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    numbers = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in (address | numbers).items():
        monkeypatch.setenv(name, value)
    context, results = examine(Options(device="cpu", timeout=1))
    found = {result.name: result.summary for result in results}
    assert found["processes"].status == "failed"
    assert found["processes"].result == "rank 1: did not answer within 6 s\nrank 2: did not answer within 6 s"
    assert found["process group"].status == found["bandwidth"].status == "skipped"
    assert found["open files"].status in ("ok", "warning")  # the others go on
    assert context.gone == {1, 2}


def test_rank_0_that_cannot_be_reached_is_named_with_its_address(monkeypatch):
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with pytest.raises(
        RanksError, match=rf"rank 1 of 2 on .* cannot reach rank 0 at 127.0.0.1:{port} within 0.3 s"
    ):
        connect(Ranks(rank=1, world_size=2, launched=True), timeout=0.3)


@pytest.mark.parametrize("shared", [True, False])
def test_the_run_folder_must_be_shared(tmp_path, shared):
    store = HashStore()

    def look(rank):
        ranks = Ranks(rank=rank, world_size=2, launched=True)
        folder = tmp_path / ("run" if shared else f"run{rank}")
        options = Options(run_dir=folder, timeout=20 if shared else 5, model="r2d_tiny")
        if not shared:
            folder.mkdir()
        return run_folder(Context(options=options, ranks=ranks, board=Board(ranks, store)))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(look, range(2))
    assert first.status == "ok" and "seen by all" in first.result
    assert second.status == ("ok" if shared else "failed")
    assert shared or "is not the folder in which rank 0 wrote" in second.result
    assert not list(tmp_path.rglob("*.*")) and (tmp_path / "run").exists() is False
