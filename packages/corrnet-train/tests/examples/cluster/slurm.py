#!/usr/bin/env python3
"""Stands in for SLURM's commands on one machine; each is a link to this file by its name.

srun runs what follows its options as a step, scancel signals all processes of the step, scontrol lists the one host and
notes what is requeued, sbatch notes what is submitted. $FAKE_SLURM is the folder of the notes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

NOTES = Path(os.environ["FAKE_SLURM"])


def note(name, *arguments):
    with (NOTES / f"{name}.notes").open("a") as file:
        file.write(json.dumps(arguments) + "\n")


def srun(*arguments):
    number = next(i for i, argument in enumerate(arguments) if not argument.startswith("--"))
    options = dict(option[2:].partition("=")[::2] for option in arguments[:number])
    log = options["output"].replace("%j", os.environ["SLURM_JOB_ID"]).replace("%N", "localhost")
    with Path(log).open("a" if options["open-mode"] == "append" else "w") as file:
        step = subprocess.Popen(arguments[number:], stdout=file, stderr=file)
        (NOTES / "step").write_text(str(step.pid))
        return step.wait()


def scancel(option, job):
    assert option.startswith("--signal=") and job == os.environ["SLURM_JOB_ID"]
    number = signal.Signals[f"SIG{option.partition('=')[2]}"]
    for pid in descendants(int((NOTES / "step").read_text())):
        os.kill(pid, number)


def descendants(pid):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, other in parents.items() if other == parent]
    return found


def scontrol(*arguments):
    if arguments[:2] == ("show", "hostnames"):
        print("localhost")
    else:
        note("scontrol", *arguments)


def sbatch(*arguments):
    note("sbatch", *arguments)
    print("77;cluster")


if __name__ == "__main__":
    sys.exit(globals()[Path(sys.argv[0]).name](*sys.argv[1:]))
