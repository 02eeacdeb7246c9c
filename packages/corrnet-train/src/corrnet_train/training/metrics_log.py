"""The metrics of a run in `metrics.jsonl`, TensorBoard and Weights & Biases, without gaps or repeats on resume."""

import json
import math
import secrets
from pathlib import Path
from typing import Any

from corrnet_train.utils.errors import InputError, MissingPackageError
from corrnet_train.utils.files import write_text
from corrnet_train.utils.journal_lines import parsed_lines, whole_lines
from video_data.utils.files import naming


class MetricsLog:
    """Appends one JSON object a line, and the same numbers to TensorBoard.

    Args:
        folder: The run's folder.
        step: The step the run continues from; what was recorded after it is removed.
        evaluation_due: Whether the evaluation after that step is yet to be made; then one of it is removed, too.
        wandb: Project of Weights & Biases; None does not log there.
        config: Settings of the run, which Weights & Biases shows.

    Raises:
        ImportError: Weights & Biases is asked for and not installed.
        ValueError: It does not start, for want of a login for one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int = 0,
        evaluation_due: bool = False,
        wandb: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 0.4 s, for the process that writes

        self._wandb = None if wandb is None else _wandb_run(folder, wandb, config or {})
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        if evaluation_due:
            kept = [line for line in kept if (line["kind"], line["step"]) != ("eval", step)]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step if evaluation_due else step + 1)
        if evaluation_due:  # TensorBoard drops all of the step; what is kept is written to it again
            for line in kept:
                if line["step"] == step:
                    self._show(**line)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Record `values` under `kind` ("train" or "eval") after `step` steps.

        JSON has no infinite numbers: the norm of a gradient that fp16 skips is null in the file.
        """
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with naming(self._path):
            self._file.write(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
            self._file.flush()
        self._show(kind, step, **values)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def _show(self, kind: str, step: int, **values: Any) -> None:
        """Hand figures to TensorBoard; null, which stands for one that is not finite, has no point there."""
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the records."""
        with naming(self._path):
            self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(folder: Path, project: str, config: dict[str, Any]) -> Any:
    """Return the run of Weights & Biases that belongs to a folder: a new one, or the same again."""
    try:
        import wandb
    except ImportError:
        raise MissingPackageError(
            "run.wandb needs Weights & Biases: pip install 'corrnet-train[wandb]', or leave it out"
        ) from None
    path = folder / "wandb.id"
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    try:
        return wandb.init(
            project=project,
            name=folder.name,
            id=path.read_text(encoding="utf-8"),
            resume="allow",
            dir=folder,
            config=config,
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        raise InputError(
            f"run.wandb={project}: Weights & Biases does not start: {error} Without a login, WANDB_MODE=offline keeps "
            "its log on this machine"
        ) from None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`; empty when there is none.

    A last line cut short by a kill is left out.

    Raises:
        ValueError: Another line is damaged; the message names it.
    """
    path = folder / "metrics.jsonl"
    remedy = "remove that line; the run goes on without its figures"
    return parsed_lines(whole_lines(path), _parsed, path=path, remedy=remedy)


def _parsed(line: bytes) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(line.decode())
    if not (isinstance(figures["kind"], str) and isinstance(figures["step"], int)):
        raise ValueError("it has no kind and step")
    return figures
