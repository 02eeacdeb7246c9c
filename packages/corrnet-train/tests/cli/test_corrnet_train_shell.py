"""What a shell sees of the command: completion, how much it loads."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corrnet_models import list_models
from corrnet_train.cli.complete import model_names
from corrnet_train.cli.demo import motionbench
from corrnet_train.config.recipes import recipe_names
from video_data import MotionBenchConfig

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
WATCHED = """
import sys
from corrnet_train.cli import main
sys.argv[0] = "corrnet"
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "numpy"} & set(sys.modules)), file=sys.stderr)
"""


def loaded(*arguments, **variables):
    """Output of the command, and which heavy packages it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.rstrip(), done.stderr.splitlines()[-1]


def completed(*words):
    """What bash offers for the last of the words, after it has read what `corrnet --show-completion` prints."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        eval "$(corrnet --show-completion)"
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}
        _corrnet_completion corrnet
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = ["bash", "--norc", "-c", script]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_recipes_and_models():
    assert completed("corrnet", "tr") == ["train"]
    assert completed("corrnet", "train", "") == recipe_names()
    assert completed("corrnet", "train", "kinetics400+corrnet1") == ["kinetics400+corrnet101"]
    assert completed("corrnet", "models", "corrnet_") == ["corrnet_tiny"]


def test_completion_loads_nothing_heavy():
    words = {"COMP_WORDS": "corrnet\nmodels\nr2d", "COMP_CWORD": "2", "_CORRNET_COMPLETE": "complete_bash"}
    assert loaded(**words) == ("r2d26\nr2d_tiny", "loaded:")


def test_help_loads_nothing_heavy():
    output, heavy = loaded("--help")
    assert "Usage" in output and heavy == "loaded:"


def test_the_shell_offers_exactly_the_registered_models():
    assert model_names("") == list_models()


def test_motionbench_options_have_the_defaults_of_its_configuration():
    options = {name: option.default for name, option in inspect.signature(motionbench).parameters.items()}
    fields = MotionBenchConfig().model_dump()
    assert {name: options[name] for name in options.keys() & fields.keys()} == {
        name: fields[name]
        for name in (
            "level", "num_train", "num_val", "num_test", "size", "num_frames", "seed", "displacement",
        )
    }  # fmt: skip
