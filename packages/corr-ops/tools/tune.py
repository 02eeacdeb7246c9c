"""Chooses launch configurations by measuring on the GPU of this machine, and writes them into configs.json.

    python packages/corr-ops/tools/tune.py                          # all kernels
    python packages/corr-ops/tools/tune.py --kernel forward_dot     # only this one; may be repeated
    python packages/corr-ops/tools/tune.py --dry-run                # prints the table and leaves the file

Every kernel is run on the three layers of CorrNet-26 that have the operator, 8 clips of 32 frames, with all
configurations that compile without spilling registers. Its entries for this GPU are replaced: one for each width of
the frames, or one for all where the same is best everywhere. Results stay equal from run to run, but their last bits
may differ from those of the table before. Afterwards `triton_code.py --write` records what is compiled now.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent))
import triton_code

from corr_ops.impl import triton as kernels
from corr_ops.impl.triton import configs

Entry = dict[str, Any]
TABLE = Path(configs.__file__).with_name("configs.json")
# Name in the table -> name in `triton_code`.
KERNELS = {
    "forward_dot": "forward, bfloat16",
    "forward_exact": "forward, float32",
    "grad_frames_16_bit": "gradient of frames, bfloat16",
    "grad_frames_exact": "gradient of frames, float32",
    "grad_filters_dot": "gradient of filters, bfloat16",
    "grad_filters_exact": "gradient of filters, float32",
}
LANES, WARPS, STRIPS = (16, 32, 64, 128, 256), (1, 2, 4, 8), ([7, 4], [4])
NUM_CLIPS = 8
Measure = Callable[[str, str, Entry], float | None]


def candidates(kernel: str, target: str) -> Iterator[Entry]:
    """Yield the configurations to try: entries of the table."""
    columns = {"columns": 16 if target.startswith("hip") else 8} if kernel.endswith("_dot") else {}
    for lanes, num_warps, strips in itertools.product(LANES, WARPS, STRIPS):
        # A matrix product takes 16 lanes of a warp.
        if not columns or num_warps <= lanes // 16:
            entry = {"kernel": kernel, "target": target, "lanes": lanes, "num_warps": num_warps}
            yield {**entry, "strips": strips, **columns}


def tune(kernel: str, target: str, measure: Measure, report: Callable[[str], None]) -> list[Entry]:
    """Return the fastest entries of a kernel, one for each width or one for all.

    Args:
        kernel: Its name in the table.
        target: Name of the GPU in the table, as "cuda-90".
        measure: Takes the kernel, a stage and an entry; returns milliseconds, or None where the entry is no use.
        report: Takes a line for people to read.

    Raises:
        RuntimeError: No configuration can be used.
    """
    best: list[Entry] = []
    for stage, (clip, _) in triton_code.STAGES.items():
        times = [(measure(kernel, stage, entry), entry) for entry in candidates(kernel, target)]
        usable = [(time, entry) for time, entry in times if time is not None]
        if not usable:
            raise RuntimeError(f"no configuration of {kernel} can be used at {stage} on {target}")
        time, entry = min(usable, key=lambda pair: pair[0])
        report(f"{kernel}, {stage}: {time:.4f} ms with {json.dumps(entry)}, of {len(usable)} configurations")
        best.append({**entry, "size": clip[-1]})
    merged = [{key: value for key, value in entry.items() if key != "size"} for entry in best]
    return merged[:1] if all(entry == merged[0] for entry in merged) else best


def replace(table: list[Entry], entries: list[Entry]) -> list[Entry]:
    """Return the table with the entries in the place of those of the same kernel and target."""
    replaced = {(entry["kernel"], entry["target"]) for entry in entries}
    return [entry for entry in table if (entry["kernel"], entry["target"]) not in replaced] + entries


def write(table: list[Entry]) -> None:
    """Write the table, an entry on each line."""
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in table)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def measure_here(kernel: str, stage: str, entry: Entry) -> float | None:
    """Return the milliseconds of a launch on this GPU; None where registers are spilled or resources exceeded."""
    import triton
    from triton.testing import do_bench

    name = KERNELS[kernel]
    # What is planned looks its configuration up.
    with mock.patch.object(configs, "_table", lambda: [entry]):
        try:
            if triton_code.count(name, stage, entry["target"])["spilled_bytes"]:
                return None
            planned = triton_code.plan(name, stage, entry["target"], device="cuda", num_clips=NUM_CLIPS)
            return float(do_bench(lambda: kernels._run(planned), return_mode="median"))
        except (triton.runtime.errors.OutOfResources, triton.CompilationError):
            return None


def main() -> None:
    """Tune and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kernel", choices=KERNELS, action="append", help="only this one; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the file")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "no GPU: torch sees none, so there is nothing to measure\n")
    target = kernels._target(torch.device("cuda", torch.cuda.current_device()))
    table = configs._table()
    for kernel in chosen.kernel or KERNELS:
        table = replace(table, tune(kernel, target, measure_here, print))
        if not chosen.dry_run:
            write(table)  # what was tuned stays tuned
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
