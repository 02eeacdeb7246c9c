"""Resident memory of one process that decodes clip after clip.

    python -m bench.data.memory                   # 10,000 clips: packs small videos, prints memory as it goes
    python -m bench.data.memory --clips 500 --pixels yuv

The last line is JSON: MiB after the first tenth, MiB at the end, and the growth between the two.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

from bench.data.media import write_videos
from video_data import ClipConfig, PackOptions, open_shards, pack_folder, train_loader


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--pixels", choices=("rgb", "yuv"), default="rgb")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_videos(folder / "videos", num_videos=12, size=(96, 64), num_frames=40)
        pack_folder(folder / "videos", folder / "shards", options=PackOptions(mode="copy"), progress=False)
        clip = ClipConfig(num_frames=8, crop_size=32)
        shards = open_shards(folder / "shards")
        loader = train_loader(
            shards, "train", clip, batch_size=5, seed=0, num_samples=options.clips, pixels=options.pixels
        )
        every = max(1, len(loader) // 10)
        marks = []
        for number, _ in enumerate(loader, start=1):
            if number % every == 0:
                marks.append(resident_mib())
                print(f"{5 * number} clips: {marks[-1]:.1f} MiB", flush=True)
    print(json.dumps({"first_tenth_mib": marks[0], "end_mib": marks[-1], "growth_mib": marks[-1] - marks[0]}))


if __name__ == "__main__":
    main()
