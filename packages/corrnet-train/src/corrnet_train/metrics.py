"""The record of a run: `metrics.jsonl` and TensorBoard events, without gaps or repeats on resume."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from corrnet_train.files import write_text


class MetricsLog:
    """Appends one JSON object a line, and the same numbers to TensorBoard.

    Args:
        folder: the run's folder.
        step: the step the run continues from; what was recorded after it is removed.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Records `values` under `kind` ("train" or "eval") after `step` steps."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes both records."""
        self._file.close()
        self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; empty when there is none.

    A last line cut short by a kill is left out.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
