import pytest
import torch
from kornia import augmentation as K
from torch.nn import functional as F

from corrnet_train.config.schema import MAX_MAGNITUDE, AugmentConfig
from corrnet_train.inference.targets import MULTICLASS
from corrnet_train.training.augment import Augment
from corrnet_train.training.loss import balanced_weights, make_loss
from video_data import ClipConfig, normalize
from video_data.loading.batches import PIXEL_MEAN, PIXEL_STD


def clips(num, *, size=16, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, 3, frames, size, size), dtype=torch.uint8, generator=generator)


def augment(num_classes=5, micro_batch=4, **options):
    return Augment(
        AugmentConfig(**options), clip=ClipConfig(), num_classes=num_classes, micro_batch=micro_batch
    )


def test_pixels_are_normalized_and_nothing_else_is_done_by_default():
    video, label = clips(4), torch.arange(4)
    out, target = augment()(video, label)
    assert torch.equal(out, normalize(video)) and target is label
    both = torch.cat([video, video[:, :2]], dim=1)
    clip = ClipConfig(modality="both")
    out, _ = Augment(AugmentConfig(), clip=clip, num_classes=5, micro_batch=4)(both, label)
    assert torch.equal(out, normalize(both, clip=clip))


def test_mixing_begins_with_normalized_clips():
    video, label = clips(4), torch.arange(4)
    change = augment(mixup=0.8)
    torch.manual_seed(4)
    out, target = change(video, label)
    torch.manual_seed(4)
    wanted, shares = change.mixed(normalize(video), label)
    assert torch.equal(out, wanted) and torch.equal(target, shares)


def test_mixup_mixes_clips_and_labels_in_the_same_shares():
    torch.manual_seed(0)
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)  # a clip is its label
    out, target = augment(mixup=0.8).mixed(video, torch.arange(4))
    assert torch.allclose(target.sum(dim=1), torch.ones(4))
    assert torch.allclose(out[:, 0, 0, 0, 0], target[:, :4] @ torch.arange(4.0), atol=1e-6)
    assert ((target > 0).sum(dim=1) == 2).all()


def test_cutmix_puts_one_box_into_all_frames_and_counts_its_pixels():
    torch.manual_seed(1)
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)
    out, target = augment(cutmix=1.0).mixed(video, torch.arange(4))
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    for row, picture in enumerate(out[:, 0, 0]):
        own = (picture == row).float().mean()
        assert target[row, row] == pytest.approx(own.item(), abs=1e-6) or own == 1
        rows, columns = (picture != row).nonzero(as_tuple=True)
        if len(rows):
            assert len(rows) == len(rows.unique()) * len(columns.unique())  # a box
    assert (out != video).any() and (out == video).any()


def test_rand_augment_changes_all_frames_alike_and_repeats_itself():
    still = clips(6, size=32)[:, :, :1].expand(-1, -1, 4, -1, -1)
    change = augment(rand_augment=9)
    torch.manual_seed(3)
    out, label = change(still, torch.arange(6))
    assert out.shape == still.shape and torch.equal(label, torch.arange(6))
    assert torch.allclose(out, out[:, :, :1].expand_as(out), atol=1e-6)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(out, still, strict=True))
    assert any((a - b).abs().max() > 0.1 for a, b in zip(out[1:], out[:-1], strict=True))
    torch.manual_seed(3)
    assert torch.equal(change(still, label)[0], out)


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_shares_are_drawn_from_the_symmetric_beta_distribution(option, alpha):
    """Its mean is 1/2 and its variance 1 / (4 (2 alpha + 1)); that of a box is the share of its pixels."""
    torch.manual_seed(0)
    video, label = torch.zeros(2, 3, 1, 32, 32), torch.arange(2)
    change = augment(**{option: alpha})
    shares = torch.stack([change.mixed(video, label)[1][0, 0] for _ in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_boxes_of_cutmix_lie_anywhere():
    torch.manual_seed(0)
    video = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, 1, 16, 16)
    change = augment(cutmix=1.0)
    boxes = [(change.mixed(video, torch.arange(2))[0][0, 0, 0] == 1).nonzero() for _ in range(200)]
    boxes = [box for box in boxes if len(box)]
    for axis in (0, 1):
        assert {0, 15} <= {box[:, axis].min().item() for box in boxes} | {
            box[:, axis].max().item() for box in boxes
        }
        assert len({box[:, axis].min().item() for box in boxes}) > 8


def test_rand_augment_applies_two_operations_of_its_magnitude_to_a_clip():
    done = []
    change, video = augment(rand_augment=MAX_MAGNITUDE / 3), clips(12)
    for operation in change._rand_augment.children():
        operation.register_forward_hook(lambda module, *_: done.append(module))
    change.clips(video)
    assert len(done) == 2 * 12 and len(set(done)) > 4
    brightness = next(op for op in change._rand_augment.children() if isinstance(op, K.RandomBrightness))
    gray = torch.full((1, 3, 4, 4), 0.5)
    levels = torch.stack([brightness(gray).mean() for _ in range(100)])
    assert 0.2 < (levels - 0.5).abs().max() <= 0.31  # by up to 0.9 at the largest magnitude


def test_clips_come_in_the_type_that_the_model_takes():
    for options in ({}, {"rand_augment": 3}):
        config = AugmentConfig(**options)
        change = Augment(config, clip=ClipConfig(), num_classes=5, micro_batch=4, dtype=torch.bfloat16)
        assert change.clips(clips(2)).dtype == torch.bfloat16


def test_rand_augment_that_changes_nothing_leaves_normalized_clips():
    change, video = augment(rand_augment=9), clips(2)
    change._rand_augment = lambda pixels: pixels
    torch.testing.assert_close(change.clips(video), normalize(video), rtol=1e-5, atol=1e-5)


def test_with_mixup_and_cutmix_each_takes_about_half_of_the_batches():
    """Clips of one value each: mixup gives values between them, cutmix none."""
    torch.manual_seed(0)
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)
    change = augment(mixup=0.8, cutmix=1.0)
    mixed = [change.mixed(video, torch.arange(4))[0] for _ in range(50)]
    num_cut = sum(torch.equal(clips, clips.round()) for clips in mixed)
    assert 15 <= num_cut <= 35


def test_rand_augment_of_pixels_gives_what_that_of_normalized_clips_gave():
    """Pixels once went through normalization and back before the operations, which rounded them.

    Operations that tell levels of pixels apart then took many for one of the level below; now they give what the same
    pixels in float64 do.
    """
    video, change = clips(1, size=24), augment(rand_augment=9)
    normalized_and_back = (normalize(video) * PIXEL_STD + PIXEL_MEAN).clamp_(0, 1)
    operations = list(change._rand_augment.children())
    assert len(operations) == 13
    for operation in operations:
        change._rand_augment = K.VideoSequential(operation, data_format="BCTHW", same_on_frame=True)
        torch.manual_seed(5)
        ours = change.clips(video) * PIXEL_STD + PIXEL_MEAN
        torch.manual_seed(5)
        before = change._rand_augment(normalized_and_back)
        torch.manual_seed(5)
        exact = change._rand_augment(video.double() / 255)
        levels = isinstance(operation, (K.RandomEqualize, K.RandomPosterize))
        assert (ours - before).abs().max() < (6 / 255 if levels else 1e-5), operation
        assert (ours - exact).abs().max() < 1e-5, operation


def test_balanced_weights_make_classes_count_alike_with_a_mean_of_one():
    weights = balanced_weights([6, 3, 0, 1])
    assert torch.allclose(weights, torch.tensor([10 / 18, 10 / 9, 0, 10 / 3]))
    sizes = torch.tensor([6.0, 3, 0, 1])
    assert float((weights * sizes).sum()) == pytest.approx(10)
    counts = weights * sizes
    assert counts[0] == pytest.approx(counts[1]) and counts[1] == pytest.approx(counts[3])


def test_a_weighted_loss_of_parts_adds_up_to_that_of_the_whole():
    torch.manual_seed(0)
    logits, weights = torch.randn(8, 3), torch.tensor([0.5, 1.0, 4.0])
    labels = torch.tensor([0, 0, 0, 0, 2, 1, 1, 2])
    for smoothing in (0.0, 0.1):
        loss = make_loss(MULTICLASS, label_smoothing=smoothing, class_weights=weights)
        for target in (labels, F.one_hot(labels, 3).float()):
            parts = [loss(logits[i : i + 2], target[i : i + 2]) for i in range(0, 8, 2)]
            assert torch.allclose(sum(parts) / 4, loss(logits, target))
    plain = F.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(
        make_loss(MULTICLASS, class_weights=weights)(logits, labels), (weights[labels] * plain).mean()
    )
    soft = torch.tensor([[0.3, 0.0, 0.7]])
    expected = -(soft * weights * logits[:1].log_softmax(dim=1)).sum()
    assert torch.allclose(make_loss(MULTICLASS, class_weights=weights)(logits[:1], soft), expected)


def test_the_loss_takes_labels_and_shares_and_smooths_both():
    logits, label = torch.randn(4, 5), torch.arange(4)
    plain, smooth = make_loss(MULTICLASS), make_loss(MULTICLASS, label_smoothing=0.1)
    assert torch.equal(plain(logits, label), F.cross_entropy(logits, label))
    shares = 0.9 * F.one_hot(label, 5) + 0.1 / 5
    assert torch.allclose(smooth(logits, label), plain(logits, shares))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 1.0, "micro_batch": 1}, r"at once, which is 1: make train.micro_batch at least 2"),
        (
            {"repeats": 3},
            r"augment.repeats=3 must divide the clips that a process takes at once, which are 4",
        ),
    ],
)
def test_what_cannot_be_done_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        augment(**options)
