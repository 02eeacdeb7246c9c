"""Figures of merit on predictions whose results are known by hand, and the files of an evaluation."""

import csv
import io
import json
from dataclasses import replace

import pytest
import torch

from corrnet_train.cli.evaluate import print_figures
from corrnet_train.evaluation.accuracy import (
    VideoPrediction,
    classes_csv,
    most_by_chance,
    predictions_csv,
    video_accuracy,
)
from corrnet_train.evaluation.evaluate import ClassificationResult, evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.report.pages.evaluation import write_evaluation
from video_data import decode_views, open_shards
from video_data.loading.batches import Unreadable

CLASSES = ["cat", "dog", "bird", "unseen"]


def prediction(label: int, *probabilities: float) -> VideoPrediction:
    return VideoPrediction(f"key-{label}", f"videos/{label}.mp4", label, list(probabilities))


PREDICTIONS = [
    prediction(0, 0.7, 0.1, 0.1, 0.1),  # right
    prediction(0, 0.2, 0.6, 0.1, 0.1),  # a cat taken for a dog
    prediction(0, 0.3, 0.5, 0.1, 0.1),
    prediction(0, 0.9, 0.0, 0.1, 0.0),
    prediction(1, 0.0, 1.0, 0.0, 0.0),
    prediction(2, 0.4, 0.1, 0.3, 0.2),  # a bird taken for a cat
]


def test_accuracy_by_video_and_by_class() -> None:
    result = video_accuracy(PREDICTIONS, CLASSES)
    assert result.top1 == pytest.approx(3 / 6)
    assert result.top5 == 1  # of four classes
    assert result.guess_top1 == pytest.approx(4 / 6)  # "cat" for all
    assert result.mean_class == pytest.approx((2 / 4 + 1 + 0) / 3)  # the class without videos does not count
    assert result.confusion == [[2, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    cat, dog, bird, unseen = result.per_class
    assert (cat.name, cat.num_videos, cat.top1, cat.taken_for) == ("cat", 4, 0.5, "dog")
    assert (dog.top1, dog.taken_for) == (1.0, "")
    assert (bird.top1, bird.taken_for) == (0.0, "cat")
    assert (unseen.num_videos, unseen.top1, unseen.top5) == (0, None, None)


@pytest.mark.parametrize(
    ("num_right", "num_videos", "guess", "is_chance"),
    [
        (16, 48, 1 / 8, False),
        (10, 48, 1 / 8, True),
        (11, 48, 1 / 8, False),
        (2, 2, 1 / 2, True),
        (9, 9, 1, True),
    ],
)
def test_right_videos_count_from_two_standard_deviations_above_one_guess(
    num_right, num_videos, guess, is_chance
) -> None:
    assert (num_right <= most_by_chance(num_videos, guess)) == is_chance


def test_a_model_that_guesses_is_told_as_such(capsys) -> None:
    def told(confusion: list[list[int]]) -> str | None:
        predictions = [
            prediction(label, *(float(place == taken) for place in range(len(confusion))))
            for label, row in enumerate(confusion)
            for taken, count in enumerate(row)
            for _ in range(count)
        ]
        video = video_accuracy(predictions, CLASSES[: len(confusion)])
        result = ClassificationResult(1, 1, [], {}, predictions, video.top1, video.top5, video)
        print_figures(result, CLASSES[: len(confusion)])
        assert (result.chance or "no better") in " ".join(
            capsys.readouterr().out.split()
        ) or result.chance is None
        return result.chance

    assert told([[20, 0], [0, 20]]) is None
    assert told([[20, 0], [20, 0]]) == (
        "no better than one guess for all videos, within chance: 20 of 40 videos are right, and one guess gets 20"
    )
    assert (told([[2, 0], [0, 1]]) or "").startswith(
        "so few videos do not tell the model from one guess for all"
    )


def test_top_5_of_many_classes() -> None:
    classes = [str(number) for number in range(8)]
    falling = [0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.03, 0.02]
    result = video_accuracy([prediction(label, *falling) for label in range(8)], classes)
    assert (result.top1, result.top5) == (pytest.approx(1 / 8), pytest.approx(5 / 8))
    assert [entry.top5 for entry in result.per_class] == [1] * 5 + [0] * 3


@pytest.mark.parametrize("num_classes", [5, 6])
def test_top_5_is_shown_where_it_says_something(num_classes: int, tmp_path, capsys) -> None:
    classes = tuple(f"class {number}" for number in range(num_classes))
    predictions = [prediction(0, *[1 / num_classes] * num_classes)]
    result = ClassificationResult(
        num_clips=1, num_crops=1, unreadable=[], fingerprint={}, predictions=predictions, clip_top1=1.0,
        clip_top5=1.0, video=video_accuracy(predictions, classes),
    )  # fmt: skip
    write_evaluation(result, classes, tmp_path, title="a run")
    print_figures(result, classes)
    shown = ["top-5" in text for text in ((tmp_path / "report.html").read_text(), capsys.readouterr().out)]
    assert shown == [num_classes > 5] * 2


def test_calibration_of_bins() -> None:
    result = video_accuracy(PREDICTIONS, CLASSES).calibration
    filled = {round(entry.low, 3): entry for entry in result.bins if entry.num_videos}
    # confidences 0.7 right, 0.6 wrong, 0.5 wrong, 0.9 right, 1.0 right, 0.4 wrong, each in a bin of its own
    assert list(filled) == [0.4, 0.467, 0.6, 0.667, 0.867, 0.933]
    assert [entry.confidence for entry in filled.values()] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.9, 1])
    assert [entry.accuracy for entry in filled.values()] == [0, 0, 0, 1, 1, 1]
    assert all(entry.confidence == entry.accuracy == 0 for entry in result.bins if not entry.num_videos)
    assert result.expected_error == pytest.approx((0.3 + 0.6 + 0.5 + 0.1 + 0 + 0.4) / 6)
    sure = [prediction(0, 1.0, 0, 0, 0), prediction(1, 0, 1.0, 0, 0)]
    assert video_accuracy(sure, CLASSES).calibration.expected_error == 0
    half_right = [prediction(0, 0.5, 0.3, 0.2, 0), prediction(1, 0.5, 0.3, 0.2, 0)]
    assert video_accuracy(half_right, CLASSES).calibration.expected_error == pytest.approx(0)


def test_no_predictions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        video_accuracy([], CLASSES)


def test_tables_as_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(predictions_csv(PREDICTIONS[:2], CLASSES, top=2))))
    assert rows[1] == {
        "key": "key-0",
        "source": "videos/0.mp4",
        "class": "cat",
        "right": "0",
        "top1": "dog",
        "probability1": "0.600000",
        "top2": "cat",
        "probability2": "0.200000",
    }
    classes = list(csv.DictReader(io.StringIO(classes_csv(video_accuracy(PREDICTIONS, CLASSES).per_class))))
    assert classes[0] == {
        "class": "cat",
        "videos": "4",
        "top1": "0.500000",
        "top5": "1.000000",
        "taken for": "dog",
    }
    assert classes[3]["top1"] == ""


def test_three_crops_of_each_clip_are_averaged(model_folder, motionbench, tmp_path) -> None:
    classifier = VideoClassifier.from_checkpoint(model_folder, device="cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(classifier.video_model.fc.weight, std=0.02)  # so that the views of a video differ
    shards = open_shards(motionbench[1])
    result = evaluate(classifier, shards, "test", num_clips=2, num_crops=3)
    one = evaluate(classifier, shards, "test", num_clips=2)
    assert result.fingerprint["views"] == "2 clips x 3 crops"
    assert one.fingerprint["views"] == "2 clips x 1 center crop"
    assert (result.num_videos, len(result.predictions)) == (16, 16)
    assert len({entry.key for entry in result.predictions}) == 16
    assert [entry.source for entry in result.predictions] == [r.source for r in shards.samples("test")]
    num_right = 0
    for entry in result.predictions:
        views = decode_views(motionbench[0] / entry.source, classifier.clip, 2, num_crops=3)
        probabilities = classifier.clip_scores(views)
        assert probabilities.shape == (6, 8) and probabilities.std(dim=0).max() > 1e-3
        assert entry.probabilities == pytest.approx(probabilities.mean(dim=0).tolist(), abs=1e-6)
        num_right += (probabilities.argmax(dim=1) == entry.label).sum().item()
    assert num_right and result.clip_top1 == num_right / (16 * 6)
    with pytest.raises(ValueError, match="num_crops must be 1 or 3, got 2"):
        evaluate(classifier, shards, "test", num_crops=2)

    wrong = [
        (place, entry)
        for place, entry in enumerate(result.predictions)
        if entry.probabilities.index(max(entry.probabilities)) != entry.label
    ]
    mistakes = result.mistakes(100)
    assert sorted(mistakes, key=lambda mistake: mistake[0]) == wrong and len(result.mistakes(2)) == 2
    surest = [max(entry.probabilities) for _, entry in mistakes]
    assert surest == sorted(surest, reverse=True)
    missing = Unreadable(3, "key", "source", "reason", "message")
    places = [place for place, _ in replace(result, unreadable=[missing]).mistakes(100)]
    assert 3 not in places and sorted(places) == [place + (place >= 3) for place, _ in wrong]

    write_evaluation(result, classifier.classes, tmp_path / "eval", title="<b>run</b> on test")
    written = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert written["video_top1"] == result.video_top1 and written["num_crops"] == 3
    assert len((tmp_path / "eval" / "predictions.csv").read_text().splitlines()) == 17
    assert len((tmp_path / "eval" / "classes.csv").read_text().splitlines()) == 9
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "&lt;b&gt;run&lt;/b&gt; on test" in page and page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")
