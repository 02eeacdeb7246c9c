import pytest
import torch

from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.training.trainer import Trainer
from video_data import decode_views, open_shards


@pytest.fixture(scope="module")
def trained(motionbench, tmp_path_factory):
    from corrnet_train.config.load import load_config

    folder = tmp_path_factory.mktemp("trained")
    config = load_config(
        "motionbench",
        [
            "model.name=corrnet_tiny", f"data.shards={motionbench[1]}", f"run.dir={folder}",
            "data.num_workers=0", "optim.batch_size=8", "optim.epochs=0.5",
        ],
    )  # fmt: skip
    return Trainer(config).run().checkpoint


def test_evaluate_counts_every_video_once_whatever_the_batches(trained, motionbench):
    shards = open_shards(motionbench[1])
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    one = evaluate(classifier, shards, "test", num_clips=3, batch_size=1)
    many = evaluate(classifier, shards, "test", num_clips=3, batch_size=5, num_workers=2)
    assert one.num_videos == many.num_videos == 16
    assert len({p.key for p in many.predictions}) == 16
    assert one.confusion == many.confusion
    assert sum(map(sum, one.confusion)) == 16
    assert [sum(row) for row in one.confusion] == [2] * 8
    assert one.video_top1 == sum(row[i] for i, row in enumerate(one.confusion)) / 16
    ranked, labels = [], []
    for record in shards.samples("test"):
        clips = decode_views(motionbench[0] / record.source, classifier.clip, 3)
        ranked.append(classifier.clip_scores(clips).argsort(dim=1, descending=True))
        labels.append(record.label)
    hits = torch.stack(ranked) == torch.tensor(labels).view(-1, 1, 1)  # [videos, clips, ranks]
    assert one.clip_top1 == many.clip_top1 == pytest.approx(hits[..., 0].float().mean().item())
    assert one.clip_top5 == many.clip_top5 == pytest.approx(hits[..., :5].any(dim=2).float().mean().item())
    assert one.clip_top1 < one.clip_top5 and one.video_top1 <= one.video_top5
    assert one.fingerprint == many.fingerprint
    assert one.fingerprint["videos"] == 16


def test_predicting_a_file_equals_evaluating_it(trained, motionbench):
    videos, shards = motionbench[0], open_shards(motionbench[1])
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    result = evaluate(classifier, shards, "test", num_clips=4, batch_size=1)
    for record, evaluated in zip(shards.samples("test"), result.predictions, strict=True):
        predicted = classifier.predict(videos / record.source, num_clips=4)
        by_class = dict(zip(predicted.classes, predicted.scores, strict=True))
        assert [by_class[name] for name in shards.classes] == evaluated.probabilities
        assert predicted.scores == sorted(predicted.scores, reverse=True)
        assert sum(predicted.scores) == pytest.approx(1)


def test_video_scores_are_the_mean_over_the_clips(trained):
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    views = torch.randint(0, 256, (2, 3, 3, 8, 32, 32), dtype=torch.uint8)
    clips, videos = classifier.video_scores(views)
    assert clips.shape == (2, 3, 8) and videos.shape == (2, 8)
    torch.testing.assert_close(clips.mean(1), videos)
    torch.testing.assert_close(classifier.clip_scores(views[1]), clips[1])


def test_another_label_map_is_refused(trained, motionbench):
    shards = open_shards(motionbench[1])
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    first, second, *others = shards.classes
    classifier.classes = (second, first, *others)  # the same classes
    with pytest.raises(ValueError, match=f"class 0 is '{first}' in the shards, '{second}' in the model"):
        evaluate(classifier, shards, "test")
    classifier.classes = (*shards.classes[:-1], "sideways")
    with pytest.raises(
        ValueError, match=f"class 7 is '{shards.classes[7]}' in the shards, 'sideways' in the model"
    ):
        evaluate(classifier, shards, "test")
    classifier.classes = classifier.classes[:3]
    with pytest.raises(ValueError, match="8 classes, the model was trained with 3"):
        evaluate(classifier, shards, "test")
