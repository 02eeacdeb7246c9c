"""The main job end to end, as the README's first command runs it, with few videos and steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CORRNET = str(Path(sys.executable).with_name("corrnet"))


@pytest.mark.slow
def test_demo_goes_from_nothing_to_a_report_and_a_prediction(tmp_path):
    result = subprocess.run([CORRNET, "demo", "--quick"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "demo"
    results = json.loads((folder / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["r2d_tiny", "r2plus1d_tiny", "corrnet_tiny"]
    budgets = {(model["num_steps"], model["batch_size"], model["num_videos"]) for model in results["models"]}
    assert budgets == {(8, 16, 16)}
    page = (folder / "report.html").read_text()
    for model in results["models"]:
        assert model["name"] in page
        assert model["name"] in result.stderr
    assert 'src="http' not in page and 'href="http' not in page
    assert result.stdout.count("%") == 5  # the five most probable classes of one video

    again = subprocess.run([CORRNET, "demo", "--quick"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    repeated = json.loads((folder / "results.json").read_text())
    for before, after in zip(results["models"], repeated["models"], strict=True):
        assert before["fingerprint"] == after["fingerprint"]
        assert before["confusion"] == after["confusion"]
        assert before["curve"] == after["curve"]
