"""What is printed where there is little place or no UTF-8: in a pseudo-terminal of 80 columns, through a pipe."""

import io
import os
import re
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from corrnet_train.cli import main
from corrnet_train.cli.layout import fitting_table, print_entry
from corrnet_train.report.table import results_table
from corrnet_train.utils.progress import training_bar

pty = pytest.importorskip("pty")
WIDTH = 80
COMMAND = [sys.executable, "-m", "corrnet_train.cli"]


@pytest.fixture(scope="module")
def in_terminal(forks):
    """What a command shows in a terminal: its lines, each frame of a bar as a line of its own."""
    import fcntl
    import struct
    import termios

    def show(*arguments):
        terminal, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        process = forks(
            *arguments, terminal=os.ttyname(inner), TERM="xterm", NO_COLOR="1", COLUMNS=None, LINES=None
        )
        reader = threading.Thread(target=lambda: output.extend(iter(lambda: chunk_of(terminal), b"")))
        output = []
        reader.start()
        code = process.wait()
        os.close(inner)  # with which the last one that writes is gone
        reader.join()
        os.close(terminal)
        assert code == 0, b"".join(output).decode()
        return lines_of(b"".join(output))

    return show


def chunk_of(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux: the other side is closed
        return b""


def lines_of(output):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", output.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture(scope="module")
def run(motionbench, in_terminal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal") / "run"
    lines = in_terminal(
        "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}", f"run.dir={folder}",
        "data.num_workers=0", "optim.batch_size=8", "optim.epochs=1", "run.log_every=1", "run.device=cpu",
    )  # fmt: skip
    return folder, lines


def test_the_bar_of_a_training_fits(run):
    folder, lines = run
    assert max(len(line) for line in lines if str(folder) not in line) <= WIDTH
    bars = [line for line in lines if line.startswith("train ")]
    assert any("clips/s" in line and "loss" in line and "eta" in line for line in bars)


@pytest.mark.slow
def test_words_stay_whole_in_80_columns(run, in_terminal, motionbench):
    folder, shards = run[0], motionbench[1]
    lines = in_terminal("models", "corrnet_tiny", "r2plus1d_tiny_twostream", "r2d_tiny")
    assert max(map(len, lines)) <= WIDTH
    words = " ".join(lines).split()
    assert {"corrnet_tiny", "r2plus1d_tiny_twostream", "GMACs", "fvcore", "params"} <= set(words)
    lines = in_terminal("inspect", shards, "--per-class", "--num-workers", 0)
    assert max(map(len, lines)) <= WIDTH
    words = " ".join(lines).split()
    assert {"max_shard_bytes", "up-right", "samples", "listed"} <= set(words)
    assert any(re.fullmatch("[0-9a-f]{64}", word) for word in words)
    lines = in_terminal("eval", folder, shards, "--split", "test", "--num-clips", 1, "--num-workers", 0)
    assert max(map(len, lines)) <= WIDTH and "top-1" in " ".join(lines)
    lines = in_terminal("train", "motionbench", "model.name=r2d_tiny", f"data.shards={shards}", "--dry-run")
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("model   ")) :]
    assert max(map(len, table)) <= WIDTH and {"activations", "parameters,"} <= set(" ".join(table).split())


@pytest.mark.slow
def test_the_doctor_fits(motionbench, in_terminal):
    lines = in_terminal("doctor", "--shards", motionbench[1], "--num-workers", 1, "--model", "corrnet_tiny")
    assert max(map(len, lines)) <= WIDTH
    assert {"operator", "reference,", "corrnet-train", "decoder"} <= set(" ".join(lines).split())


def test_columns_without_a_place_are_left_out_in_their_order():
    titles = ("rank", "host", "name", "memory", "capability")
    rows = [["0", "a-host-with-a-long-name", "NVIDIA H100 80GB HBM3", "79.1 GiB", "9.0"], ["1", "silent"]]
    shown = {}
    for width in (80, 70, 56):
        console = Console(width=width)
        table = fitting_table(console, titles, rows, droppable=("capability", "memory"))
        shown[width] = [column.header for column in table.columns]
    assert shown == {80: [*titles], 70: [*titles[:4]], 56: [*titles[:3]]}


def test_an_entry_is_one_line_outside_of_a_terminal(capsys):
    text = "some words " * 20 + "[x]"
    print_entry(Console(width=40), "label", text, indent=10)
    assert capsys.readouterr().out == f"label     {text}\n"
    print_entry(Console(width=40, force_terminal=True, no_color=True), "label", text, indent=10)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40 and " ".join(" ".join(lines).split()) == f"label {text}"


def demo_results(**changes):
    from datetime import UTC, datetime

    from corrnet_train.report.results import DatasetSummary, ModelResult, Results

    models = [
        ModelResult(
            name=name, run_dir=name, params=33_710_000, gmacs=142.56, clip_top1=0.5, video_top1=0.625,
            clip_top5=0.9, video_top5=0.9, num_videos=16, clips_per_second=12345, train_seconds=36000,
            num_steps=1, batch_size=1, confusion=[[8, 0], [0, 8]], fingerprint={}, curve=[], evals=[],
        )
        for name in ("r2plus1d_tiny", "corrnet_tiny")
    ]  # fmt: skip
    dataset = DatasetSummary(
        name="x", manifest_hash="0" * 64, classes=["a", "b"], num_train=1, num_test=16, num_clips=1
    )
    return Results(
        title="Learning motion by correlation: three tiny models on MotionBench",
        created=datetime.now(UTC).isoformat(), environment={}, dataset=dataset, seed=0, seconds_total=1, models=models,
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_the_demos_results_keep_names_and_intervals_whole(width):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(results_table(demo_results()))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for whole in ("r2plus1d_tiny", "corrnet_tiny", "[38.6 to 81.5]", "33.7 M", "time", "10 h 00 min"):
        assert whole in text


@pytest.mark.parametrize(("width", "left_out"), [(140, 0), (100, 1), (80, 3), (50, 5)])
def test_a_bar_leaves_out_what_has_no_place(width, left_out):
    console = Console(width=width, force_terminal=True, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    bar = training_bar(console)
    bar.add_task(
        "train corrnet_tiny",
        total=1000,
        completed=500,
        loss=2.1,
        clips_per_second=100,
        data_wait=0.01,
        mfu=0.2,
    )
    console.print(bar.make_tasks_table(bar.tasks))
    lines = console.export_text().rstrip().splitlines()
    assert len(lines) == 1 and "train corrnet_tiny" in lines[0] and "500/1000" in lines[0]
    found = [
        word
        for word in ("0:00:0", "loss 2.100", "100 clips/s", "data wait 1%", "MFU 20%")
        if word in lines[0]
    ]
    assert 5 - len(found) == left_out, lines


@pytest.mark.parametrize(
    "encoding",
    ["ascii", "latin-1", "utf-8"],
)
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["pack", "csv", "--help"], ["eval", "--help"], ["recipe", "list"], ["recipe", "options"], ["trian"],
     ["models", "Zoë 動き"], ["train", "動き-é.yaml"], ["recipe", "show", "motionbench", "data.shards=Zoë/動き"]],
    ids=" ".join,
)  # fmt: skip
def test_any_encoding_takes_the_output(arguments, encoding, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr("corrnet_train.cli.keep_freed_memory", lambda: None)  # of this process
    monkeypatch.setattr(sys, "argv", ["corrnet", *arguments])
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as ended:
        main()
    monkeypatch.undo()
    assert ended.value.code in (0, 2)
    for stream in streams:
        stream.flush()
    both = b"".join(stream.buffer.getvalue() for stream in streams).decode(encoding)
    assert "UnicodeEncodeError" not in both and "Traceback" not in both
    for character in "動é":
        if any(character in argument for argument in arguments) and arguments[0] in ("models", "train"):
            takes = encoding == "utf-8" or (encoding == "latin-1" and character == "é")
            if character == "動" or arguments[0] == "train":
                assert (character in both) == takes, both


def test_results_with_other_letters_reach_a_terminal_that_has_none(motionbench, run, tmp_path):
    folder = tmp_path / "動き"
    folder.mkdir()
    video = next((motionbench[0] / "videos" / "test").rglob("*.mp4"))
    (folder / "é.mp4").write_bytes(video.read_bytes())
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))
    }
    environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    command = [*COMMAND, "predict", str(run[0]), str(folder)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=100)
    text = done.stdout.decode("ascii")
    assert done.returncode == 0, done.stderr
    assert "mp4" in text and "####" in text
