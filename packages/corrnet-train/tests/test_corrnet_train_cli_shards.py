"""`corrnet verify`: its table, JSON and exit codes."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from video_data import open_shards

runner = CliRunner()


def corrnet(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("command", ["verify"])
def test_the_commands_have_help_with_examples(command):
    output = corrnet(command, "--help")
    assert f"corrnet {command} data/shards" in output


def test_verify_exits_with_0_for_a_sound_set(motionbench, tmp_path):
    output = corrnet("verify", motionbench[1], "--num-workers", 1, "--json", tmp_path / "report.json")
    assert "0 problems" in output and "56 of 56 samples, decoded 672 frames" in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"] == [] and report["num_frames"] == 672


def test_verify_lists_problems_and_exits_with_1(motionbench, tmp_path):
    folder = shutil.copytree(motionbench[1], tmp_path / "shards")
    record = open_shards(folder).sample("test", 3)
    tar = folder / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset + 50] ^= 4
    tar.write_bytes(content)
    output = corrnet(
        "verify", folder, "--no-decode", "--num-workers", 1, "--json", tmp_path / "report.json", code=1
    )
    assert record.key in output and record.source in output
    assert "1 x hash is not the one in the index" in output and "not decoded" in output
    problems = json.loads((tmp_path / "report.json").read_text())["problems"]
    assert [problem["key"] for problem in problems] == ["", record.key]


def test_verify_of_a_folder_without_shards_exits_with_2(tmp_path):
    assert "is not a finished shard set" in corrnet("verify", tmp_path, code=2)
