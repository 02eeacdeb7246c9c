"""The examples for clusters: they parse, their commands are ones that exist, and the SLURM job runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.cli import app
from corrnet_train.config.load import load_config
from corrnet_train.training.metrics_log import read_metrics

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples"
README = ROOT / "packages" / "corrnet-train" / "README.md"
SLURM = Path(__file__).with_name("cluster") / "slurm.py"
SCRIPTS = sorted((EXAMPLES / "slurm").iterdir())
BIN = Path(sys.executable).parent


def check_command(arguments):
    """Parses `corrnet ARGUMENTS` with the parser of the command line itself, down to the last subcommand."""
    command, context, arguments = typer.main.get_command(app), None, list(arguments)
    while True:
        context = command.make_context(command.name, arguments, parent=context)
        if not hasattr(command, "resolve_command"):
            return command.name, context.params
        _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


def check_torchrun(arguments):
    """Parses a torchrun command with torch's parser, and the corrnet command in it; returns both."""
    options = get_args_parser().parse_args(arguments)
    assert (options.module, options.training_script) == (True, "corrnet_train.cli")
    return options, check_command(options.training_script_args)


@pytest.fixture
def recorder(tmp_path):
    """Puts commands on the path that note their arguments; returns what runs a script, and what was noted."""
    folder = tmp_path / "recorder"
    folder.mkdir()
    record = f"#!{sys.executable}\nimport json, sys, pathlib\nname = pathlib.Path(sys.argv[0]).name\n"
    record += f'open({str(folder / "notes")!r}, "a").write(json.dumps([name, *sys.argv[1:]]) + "\\n")\n'
    for name in ("corrnet", "torchrun", "kubectl", "sbatch"):
        (folder / name).write_text(record)
        (folder / name).chmod(0o755)

    def run(script, *arguments, **variables):
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FAKE_SLURM": str(folder), **variables}
        done = subprocess.run(
            ["bash", *script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        notes = folder / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    run.folder = folder
    return run


@pytest.fixture
def slurm(recorder):
    """As `recorder`, with SLURM's commands too."""
    for name in ("srun", "scontrol", "scancel", "sbatch"):
        (recorder.folder / name).unlink(missing_ok=True)
        (recorder.folder / name).symlink_to(SLURM)
    (recorder.folder / "python3").symlink_to(sys.executable)
    return recorder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_syntax_errors_and_no_findings(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    shellcheck = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_directives_are_options_of_sbatch(script):
    known = {
        "job-name", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "mem-per-cpu",
        "time", "signal", "requeue", "open-mode", "output",
    }  # fmt: skip
    lines = script.read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert len(directives) > 5
    assert lines.index(directives[-1]) < lines.index(
        "set -euo pipefail"
    )  # sbatch stops reading at the first command
    for line in directives:
        assert re.match(r"#SBATCH --([a-z-]+)", line)[1] in known
    values = dict(re.match(r"#SBATCH --([a-z-]+)=?(\S*)", line).groups() for line in directives)
    assert re.fullmatch(r"\d+:\d\d:\d\d", values["time"])
    assert "requeue" in values and values["open-mode"] == "append"
    if script.name == "train.sbatch":
        assert re.fullmatch(r"B:USR1@\d+", values["signal"])
        cores, gpus = int(values["cpus-per-task"]), int(values["gpus-per-node"])
        assert cores == gpus * (1 + 8) and "NUM_WORKERS:-8" in script.read_text()


def test_training_under_slurm_is_commands_that_exist(slurm, tmp_path):
    arguments = ("kinetics400+corrnet50", "/shared/shards", "/shared/run", "optim.lr=0.05")
    variables = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[1-4]", "SLURM_JOB_NUM_NODES": "4"}
    doctor, train = slurm([EXAMPLES / "slurm" / "train.sbatch"], *arguments, **variables)
    for name, *command in (doctor, train):
        options, _ = check_torchrun(command)
        assert (name, options.nnodes, options.nproc_per_node) == ("torchrun", "4", "gpu")
        assert options.rdzv_backend == "c10d"
    first, second = (check_torchrun(command) for _, *command in (doctor, train))
    assert first[0].rdzv_endpoint != second[0].rdzv_endpoint  # the store of the first may still be there
    assert first[1][0] == "doctor" and str(first[1][1]["run_dir"]) == "/shared/run"
    name, parameters = second[1]
    assert name == "train" and parameters["requeue"] and second[0].max_restarts == 3
    config = load_config(parameters["recipe"], parameters["overrides"])
    assert (str(config.run.dir), config.optim.lr, config.model.name) == ("/shared/run", 0.05, "corrnet50")
    assert config.data.num_workers == first[1][1]["num_workers"] == 8


def test_scripts_say_how_they_are_called(tmp_path):
    for script in SCRIPTS:
        done = subprocess.run(["bash", script, "one"], capture_output=True, text=True, timeout=20)
        assert done.returncode != 0 and f"{script.name} " in done.stderr and "usage: " in done.stderr


def test_packing_under_slurm_is_an_array_and_a_merge_that_waits(slurm, tmp_path):
    script = EXAMPLES / "slurm" / "pack.sbatch"
    arguments = ("kinetics", "/shared/videos", "/shared/my shards", "--max-short-side", "320")
    assert slurm([script], *arguments, PARTS="3") == []
    array, merge = (json.loads(line) for line in (slurm.folder / "sbatch.notes").read_text().splitlines())
    assert array == ["--parsable", "--array=1-3", str(script), *arguments]
    assert "--dependency=afterok:77" in merge
    ((name, *command),) = slurm(["-c", merge[-1].removeprefix("--wrap=")])
    _, parameters = check_command(command)
    assert (name, str(parameters["dest"])) == ("corrnet", "/shared/my shards")
    for number in range(1, 4):
        task = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_CPUS_PER_TASK": "4"}
        ((name, *command),) = slurm([script], *arguments, **task)
        assert name == "corrnet"
        kind, parameters = check_command(command)
        assert kind == "kinetics" and parameters["part"] == f"{number}/3"
        assert (parameters["max_short_side"], parameters["num_workers"]) == (320, 4)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (1, 1), (130, 130)])
def test_a_part_with_unreadable_videos_is_done_and_other_failures_stay(slurm, tmp_path, code, expected):
    (slurm.folder / "corrnet").write_text(f"#!/bin/sh\nexit {code}\n")
    task = {
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "PATH": f"{slurm.folder}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm" / "pack.sbatch", "folder", "a", "b"], env=task, timeout=20
    )
    assert done.returncode == expected


def documents(name):
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text()))


def check_pod(pod):
    """What Kubernetes checks of a pod: names, mounts of volumes that there are, requests within limits."""
    containers = pod.get("initContainers", []) + pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", container["name"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert "image" in container
        requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        assert limits["memory"] == requests["memory"]
        assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu")
        for words in (container.get("command", []), container.get("args", [])):
            assert all(isinstance(word, str) for word in words)
        for variable in container.get("env", []):
            assert isinstance(variable["value"], str)
    assert {mount["name"] for c in containers for mount in c["volumeMounts"]} == volumes
    return containers


def test_the_pytorchjob_is_what_the_operator_takes():
    (job,) = documents("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    spec = job["spec"]
    assert set(spec) == {"elasticPolicy", "runPolicy", "pytorchReplicaSpecs"}
    replicas = spec["pytorchReplicaSpecs"]
    assert set(replicas) == {"Master", "Worker"} and replicas["Master"]["replicas"] == 1
    policy = spec["elasticPolicy"]
    assert policy["rdzvBackend"] == "c10d"
    assert policy["rdzvHost"] == f"{job['metadata']['name']}-master-0"  # as the operator names its pods
    assert 1 <= policy["minReplicas"] <= policy["maxReplicas"]
    assert policy["maxReplicas"] == sum(replica["replicas"] for replica in replicas.values())
    for replica in replicas.values():
        assert replica["restartPolicy"] in ("Always", "OnFailure", "Never", "ExitCode")
        pod = replica["template"]["spec"]
        doctor, trainer = check_pod(pod)
        assert trainer["name"] == "pytorch"
        assert {"name": "pytorchjob-port", "containerPort": policy["rdzvPort"]} in trainer["ports"]
        assert doctor["resources"] == trainer["resources"]  # one after the other, on the same GPUs
        shm = next(volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
        assert shm["emptyDir"]["medium"] == "Memory"
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in trainer["volumeMounts"]
        patience = int(trainer["env"][0]["value"])
        assert trainer["env"][0]["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
        assert patience < pod["terminationGracePeriodSeconds"]


def test_the_pytorchjob_runs_commands_that_exist():
    (job,) = documents("pytorchjob.yaml")
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    (doctor,), (trainer,) = pod["initContainers"], pod["containers"]
    name, *arguments = doctor["command"]
    kind, checked = check_command(arguments)
    assert (name, kind) == ("corrnet", "doctor")
    name, *arguments = trainer["command"]
    options, (kind, parameters) = check_torchrun(arguments)
    assert (name, kind, parameters["requeue"]) == ("torchrun", "train", True)
    gpus = trainer["resources"]["limits"]["nvidia.com/gpu"]
    assert int(options.nproc_per_node) == gpus
    config = load_config(parameters["recipe"], parameters["overrides"])
    assert checked["num_workers"] == config.data.num_workers
    assert int(trainer["resources"]["requests"]["cpu"]) == gpus * (1 + config.data.num_workers)
    mounts = {mount["mountPath"]: mount for mount in trainer["volumeMounts"]}
    assert config.data.shards.parts[1] == "shards" and mounts["/shards"]["readOnly"]
    assert f"/{config.run.dir.parts[1]}" in mounts and str(checked["run_dir"]) == str(config.run.dir)
    for machines in range(job["spec"]["elasticPolicy"]["minReplicas"], 3):
        config.train.accumulation(config.optim.batch_size, world_size=gpus * machines)


def test_the_packing_job_is_indexed_and_runs_commands_that_exist(recorder):
    pack, merge = documents("pack-job.yaml")
    for job in (pack, merge):
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        assert job["spec"]["template"]["spec"]["restartPolicy"] in ("OnFailure", "Never")
        check_pod(job["spec"]["template"]["spec"])
    assert pack["spec"]["completionMode"] == "Indexed"
    (container,) = pack["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert container["command"] == ["bash", "-c"]
    dests, number = set(), pack["spec"]["completions"]
    for index in (0, number - 1):
        ((_, *command),) = recorder(["-c"], *container["args"], JOB_COMPLETION_INDEX=str(index), **variables)
        kind, parameters = check_command(command)
        assert kind == "kinetics" and parameters["part"] == f"{index + 1}/{number}"
        dests.add(parameters["dest"])
    (container,) = merge["spec"]["template"]["spec"]["containers"]
    _, parameters = check_command(container["command"][1:])
    assert dests == {parameters["dest"]}


def test_the_readme_shows_commands_that_exist(recorder):
    section = README.read_text().partition("## On a cluster")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) >= 3
    seen = []
    for block in blocks:
        for name, *command in recorder(["-c", block]):
            if name == "corrnet":
                kind, parameters = check_command(command)
            elif name == "torchrun":
                _, (kind, parameters) = check_torchrun(command)
            else:
                kind = name
                files = [word for word in command if word.startswith("examples/")]
                assert all((ROOT / file).is_file() for file in files)
            if kind == "train":
                load_config(parameters["recipe"], parameters["overrides"])
            seen.append(kind)
    assert {"doctor", "sbatch", "kubectl", "eval", "export"} <= set(seen)


@pytest.mark.slow
def test_a_slurm_job_saves_before_its_limit_is_queued_again_and_can_end(slurm, motionbench, tmp_path):
    """Two processes of one machine get SLURM's signal in the middle; what they saved is finished by one process."""
    (slurm.folder / "torchrun").unlink()
    run, logs, job_id = tmp_path / "run", tmp_path / "logs", str(os.getpid())
    overrides = [
        "model.name=r2d_tiny", "run.device=cpu", "run.log_every=1", "optim.batch_size=8", "optim.epochs=16",
        "optim.warmup_epochs=1", "eval.every_epochs=0", "run.checkpoint_every=1000", "eval.num_clips=1",
        "data.clip.num_frames=4", "data.clip.crop_size=16",
    ]  # fmt: skip
    environment = {
        **os.environ, "PATH": f"{slurm.folder}:{BIN}:{os.environ['PATH']}", "FAKE_SLURM": str(slurm.folder),
        "SLURM_JOB_ID": job_id, "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_NUM_NODES": "1",
        "NPROC_PER_NODE": "2", "NUM_WORKERS": "1", "LOGS": str(logs), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def steps():
        return [line["step"] for line in read_metrics(run) if line["kind"] == "train"]

    script = [EXAMPLES / "slurm" / "train.sbatch", "motionbench", motionbench[1], run, *overrides]
    job = subprocess.Popen(["bash", *script], env=environment, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(steps()) < 3:
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120) != 0
    finally:
        job.kill()
    stopped = Checkpoint.load(run / "checkpoints" / "last.pt").step
    assert 3 <= stopped < 64 and steps() == list(range(1, stopped + 1))
    assert (slurm.folder / "scontrol.notes").read_text() == json.dumps(["requeue", job_id]) + "\n"
    assert {path.name for path in logs.iterdir()} == {
        f"{step}-{job_id}-localhost.log" for step in ("doctor", "train")
    }
    doctor = (logs / f"doctor-{job_id}-localhost.log").read_text()
    for line in (
        "ok       processes      all 2 answered: 2 on ",
        "ok       process group  2 processes joined over gloo",
        "ok       all-reduce     sums, gathered and broadcast objects are right",
        "ok       bandwidth      gloo: 1 MiB ",
        "; samples of 6 shards decoded",  # each rank reads its own
        "ok       run folder     writable, seen by all; ",
    ):
        assert doctor.count(line) == 1, line

    arguments = [
        "motionbench",
        f"data.shards={motionbench[1]}",
        f"run.dir={run}",
        "data.num_workers=0",
        *overrides,
    ]
    done = CliRunner().invoke(app, ["train", *arguments, "--requeue"])
    assert done.exit_code == 0, done.output
    assert steps() == list(range(1, 65))
