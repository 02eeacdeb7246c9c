"""A forward pass of CorrNet-26 on a small clip, beside that of R(2+1)D-26, its baseline in the paper."""

import torch

from corrnet_models import create_model

SUITE, YARDSTICK = "models", "R(2+1)D-26"


def make():
    clip = torch.randn(1, 3, 8, 112, 112)
    corrnet, baseline = (create_model(name, num_frames=8).eval() for name in ("corrnet26", "r2plus1d26"))

    def forward(model):
        with torch.inference_mode():
            return model(clip)

    assert forward(corrnet).isfinite().all()
    return lambda: forward(corrnet), lambda: forward(baseline)
