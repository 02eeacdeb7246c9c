"""Compares variants of a tiny model on moving patches, to choose what the paper leaves open.

    python bench/models/study.py                                  # every variant below, seed 0
    python bench/models/study.py --seeds 0 1 2 --only default     # one variant, three seeds

A variant trains for 200 steps of 32 clips on 4,000 MotionBench clips that are easier than the data set's own:
8 frames of 32x32 without cropping, every patch 2 pixels a frame. It prints top-1 on 800 held-out clips.
"""

import argparse
import json
import time

import torch
from torch.nn.functional import cross_entropy

from corrnet_models import create_model
from video_data.datasets.motionbench import MotionBenchConfig, motionbench_frames

VARIANTS = {
    "default": {},
    "norm before: none": {"corr_norm_before": "none"},
    "norm before: bn_relu": {"corr_norm_before": "bn_relu"},
    "norm after: bn": {"corr_norm_after": "bn"},
    "zero-init residual": {"zero_init_residual": True},
    "concat": {"corr_block": "concat"},
    "concat, norm after: bn": {"corr_block": "concat", "corr_norm_after": "bn"},
}
DATA = MotionBenchConfig(
    num_train=4000, num_test=800, size=32, num_frames=8, speeds=(2.0,), sprite_size=(12, 18)
)
NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 200, 32, 2e-3


def make_clips(split):
    frames = [motionbench_frames(DATA, split, number) for number in range(DATA.num_videos[split])]
    clips = torch.stack([torch.from_numpy(video) for video in frames]).permute(0, 4, 1, 2, 3)
    return clips.contiguous(), torch.arange(len(frames)) % 8


def normalized(clips):
    return (clips.float() - 127.5) / 64


def train_and_test(overrides, seed, train, test):
    torch.manual_seed(seed)
    model = create_model("corrnet_tiny", **overrides)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=NUM_STEPS, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(seed)
    clips, labels = train
    for _ in range(NUM_STEPS):
        batch = torch.randint(len(clips), (BATCH_SIZE,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(normalized(clips[batch])), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    clips, labels = test
    with torch.no_grad():
        scores = torch.cat([model(normalized(part)) for part in clips.split(50)])
    return (scores.argmax(dim=1) == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    train, test = make_clips("train"), make_clips("test")
    for variant in arguments.only:
        for seed in arguments.seeds:
            start = time.monotonic()
            top1 = train_and_test(VARIANTS[variant], seed, train, test)
            seconds = round(time.monotonic() - start)
            print(
                json.dumps({"variant": variant, "seed": seed, "top1": top1, "seconds": seconds}), flush=True
            )


if __name__ == "__main__":
    main()
