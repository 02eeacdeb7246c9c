"""Two processes that are forked from one which has imported torch already: one is checked, the other falls silent.

python silent_rank.py PORT ARGUMENTS...: rank 0 runs `corrnet doctor ARGUMENTS`; rank 1 joins the process group and then
answers no more. The exit code is that of rank 0.
"""

import os
import signal
import sys
import time

from corrnet_train.cli import app
from corrnet_train.distributed.ranks import Ranks
from corrnet_train.doctor import Options, choose_checks
from corrnet_train.doctor.board import Board, connect
from corrnet_train.doctor.checkup import Context, run_checks


def be(rank, port):
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip


def fall_silent():
    ranks = Ranks.from_environment()
    context = Context(
        options=Options(device="cpu", timeout=10), ranks=ranks, board=Board(ranks, connect(ranks, timeout=10))
    )
    checks = choose_checks(context.options, launched=True)
    run_checks(checks[: [check.name for check in checks].index("process group") + 1], context)
    time.sleep(300)


def main(port, *arguments):
    other = os.fork()
    if other == 0:
        be(1, port)
        fall_silent()
    first = os.fork()
    if first == 0:
        be(0, port)
        app(["doctor", *arguments])
    code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
