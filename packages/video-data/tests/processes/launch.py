"""Runs a script as an interpreter of its own would, in a session of its own; see the fixture `scripts`.

Its globals hold `SCRIPT`, its `ARGUMENTS`, and the files of its `STREAMS`, input, output and errors.
"""

import atexit
import os
import runpy
import signal
import sys

os.setsid()
for number, path in enumerate(STREAMS):  # noqa: F821
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), number)
sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(
    signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM}
)  # which the server of workers blocks
sys.argv = [SCRIPT, *ARGUMENTS]  # noqa: F821
sys.path.insert(0, os.path.dirname(SCRIPT))  # noqa: F821, PTH120
try:
    runpy.run_path(SCRIPT, run_name="__main__")  # noqa: F821
finally:
    atexit._run_exitfuncs()
    sys.stdout.flush()
