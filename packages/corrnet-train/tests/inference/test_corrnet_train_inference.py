import pytest
import torch

from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.targets import Targets
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


def test_classes_that_the_model_does_not_know_are_refused(trained, motionbench):
    shards = open_shards(motionbench[1])
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    classifier.classes = (*shards.classes[:-1], "sideways")
    told = (
        f"does not know 1 of the 8 classes of these videos: {shards.classes[-1]}; it tells apart .*sideways"
    )
    with pytest.raises(ValueError, match=told):
        evaluate(classifier, shards, "test")
    classifier.targets = Targets("multilabel")
    with pytest.raises(
        ValueError, match="the task of the videos is multiclass, that of the model multilabel"
    ):
        evaluate(classifier, shards, "test")


def test_classes_are_matched_by_name_whatever_their_order_and_number(trained, motionbench):
    shards = open_shards(motionbench[1])
    classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
    before = evaluate(classifier, shards, "test", num_clips=2)
    head = classifier.video_model.get_classifier()
    with torch.no_grad():
        order = [7, 6, 5, 4, 3, 2, 1, 0]
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    classifier.classes = tuple(reversed(classifier.classes))
    turned = evaluate(classifier, shards, "test", num_clips=2)
    assert (turned.clip_top1, turned.video_top1) == (before.clip_top1, before.video_top1)
    for first, second in zip(before.predictions, turned.predictions, strict=True):
        assert shards.classes[first.label] == classifier.classes[second.label]
        assert first.probabilities == pytest.approx(second.probabilities[::-1], abs=1e-6)
