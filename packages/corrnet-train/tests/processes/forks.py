"""Starts commands in processes that are forked from this one, which has imported what they need already.

Each is as `python -m corrnet_train.cli ARGUMENTS`, or a script, in a session of its own: with an id, signals, an exit
code, and workers. Those of several processes are started by torch's agent, as by torchrun, and again after a death.
Each line of the input is a request in JSON, {"start": {...}} or {"poll": id}; each line of the output is its answer:
an id, or an exit code, null while it runs.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import sys

import torch._dynamo  # which FSDP imports, as a trainer the next ones
import torch.distributed.checkpoint
import torch.utils.tensorboard  # noqa: F401
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import corrnet_train.checkpoint.sharded
import corrnet_train.doctor
import corrnet_train.evaluation.evaluate
import corrnet_train.inference.features
import corrnet_train.training.trainer  # noqa: F401


def run(script, arguments):
    """As `python SCRIPT`, and `python -m corrnet_train.cli` where there is none."""
    sys.argv = [script or "corrnet", *arguments]
    if script is None:
        runpy.run_module("corrnet_train.cli", run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(script))  # noqa: PTH120
        runpy.run_path(script, run_name="__main__")


def run_rank(script, arguments):
    """One process of several; what ends when the interpreter does, as workers, ends here."""
    try:
        run(script, arguments)
    finally:
        atexit._run_exitfuncs()


@record
def launch(script, arguments, processes, restarts):
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=restarts, monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="forks", start_method="fork",
    )  # fmt: skip
    elastic_launch(config, run_rank)(script, arguments)


def become(streams, folder, environment, processes, restarts, script, arguments):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), number)
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdin, sys.stdout = open(0), open(1, "w", encoding=encoding)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=encoding, errors="backslashreplace")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path += [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    if processes:
        launch(script, arguments, processes, restarts)
    else:
        run(script, arguments)


def serve():
    """Answer requests; returns the one that a forked process has to follow, and None at the end."""
    # Without a buffer, of which processes would have copies.
    requests, answers = open(0, "rb", buffering=0), open(1, "wb", buffering=0)  # noqa: SIM115
    for line in requests:
        request = json.loads(line)
        if "start" in request:
            gc.freeze()  # what is there stays: collectors of new processes need not go through it again and again
            pid = os.fork()
            if pid == 0:
                return request["start"]
            answer = pid
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        answers.write(json.dumps(answer).encode() + b"\n")
    return None


if __name__ == "__main__":
    request = serve()
    if request is not None:
        become(**request)
