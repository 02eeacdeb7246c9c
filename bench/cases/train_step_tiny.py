"""A step of the trainer with all that it does around it, on the demo's recipe, beside a loop written by hand."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from threading import Semaphore, Thread

import torch
from rich.console import Console
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from corrnet_models import create_model
from video_data import MotionBenchConfig, PackOptions, generate_motionbench, normalize, open_shards, pack_csv
from video_data import train_loader as load

try:
    from corrnet_train import Trainer, load_config
except ImportError:  # commits before 2026-11-26
    from corrnet_train.trainer import Trainer

    from corrnet_train.config import load_config

SUITE, YARDSTICK = "train", "a bare loop"
BATCH = 1


def make():
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, folder)
    videos = MotionBenchConfig(num_train=BATCH, num_val=8, num_test=0)
    listing = generate_motionbench(folder / "videos", videos, progress=False)
    pack_csv(listing, folder / "shards", options=PackOptions(mode="copy"), progress=False)
    settings = f"optim.batch_size={BATCH} optim.epochs=9999 eval.every_epochs=0 run.checkpoint_every=999999"
    settings += f" run.device=cpu data.num_workers=0 data.shards={folder / 'shards'} run.dir={folder / 'run'}"
    config = load_config("motionbench", settings.split())
    return trainer_steps(Trainer(config, console=Console(file=Path(os.devnull).open("w")))), bare_loop(config)


def trainer_steps(trainer):
    """Let the trainer run in a thread that waits where a step begins."""
    signal.signal = lambda *_: None  # a thread may not choose what signals do
    go, done = Semaphore(0), Semaphore(0)

    def wait(*_):
        done.release()
        go.acquire()

    trainer.model.register_forward_pre_hook(wait)

    def run():
        try:
            trainer.run()
        finally:
            done.release()

    thread = Thread(target=run, daemon=True)
    thread.start()
    done.acquire()

    def call():
        go.release()
        done.acquire()
        assert thread.is_alive()

    call()
    return call


def bare_loop(config):
    model = create_model("corrnet_tiny", num_frames=8, num_classes=8)
    for weight in model.parameters():  # as the trainer has them
        if weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr, weight_decay=0.05)
    shards = open_shards(config.data.shards)
    loader = load(shards, "train", config.data.clip, batch_size=BATCH, seed=0)

    def call():
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(normalize(batch.video)), batch.label).backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return call
