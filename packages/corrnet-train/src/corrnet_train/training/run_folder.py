"""What a run folder holds of a run, and from which of its checkpoints that goes on."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from corrnet_train.checkpoint.folders import LAST, checkpoint_names, resume_command
from corrnet_train.checkpoint.state import Checkpoint, newest_intact
from corrnet_train.config.load import complete_config, is_recipe_text, recipe_tree, text_keys
from corrnet_train.config.recipes import keep_path, read_recipe
from corrnet_train.config.schema import RunConfig
from corrnet_train.training.metrics_log import read_metrics
from corrnet_train.training.run_log import CONFIG, RECORDS
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import unused_path
from video_data.utils.files import check_file


def settings_of_run(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings with which a run goes on: those that its folder holds, wherever that lies now.

    Args:
        folder: That of the run.
        overrides: Changes to them, `section.key=value`.

    Raises:
        InputError: It is not the folder of a run, its shards are not where they were, or a change is wrong.
    """
    config, last = folder / CONFIG, folder / "checkpoints" / LAST
    if config.is_file():
        tree = read_recipe(config, text_keys=text_keys())
    elif checkpoint_names(last.parent):
        tree = recipe_tree(Checkpoint.load(last).config)
    else:
        raise InputError(
            f"{folder} is not the folder of a run: it holds neither {CONFIG} nor checkpoints; give the "
            "run.dir of one"
        )
    tree["run"] = {**tree.get("run", {}), "dir": keep_path(str(folder))}
    settings = complete_config(tree, overrides)
    if settings.run.dir != folder:
        raise InputError(f"run.dir is the folder that is given, {folder}: leave it out")
    if not settings.data.shards.exists():
        raise InputError(
            f"{settings.data.shards}, the shards of {folder}, is not there (any more, or from here): "
            "give its place, corrnet resume RUN --shards FOLDER or corrnet eval RUN FOLDER"
        )
    return settings


def check_shards(config: RunConfig) -> None:
    """Check that the shards of a run are there, before any work.

    Raises:
        InputError: They are not; the message has the commands that make some.
    """
    shards = config.data.shards
    if not shards.exists():
        demo = read_recipe("motionbench")["data"]["shards"]
        pack = shlex.join(["corrnet", "pack", "folder", "my-videos", str(shards)])
        made = "corrnet demo makes them" if str(shards) == demo else f"{pack} --val-fraction 0.2 makes them"
        raise InputError(
            f"no folder of shards at {shards} (data.shards): {made}; corrnet train my-videos packs and trains"
        )


class RunFolder:
    """A run folder as it is now.

    Args:
        folder: `run.dir`, which need not exist.
        say: Told in a line what is not as it should be and does not keep the run from going on.

    Attributes:
        source: The checkpoint that was found.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._last = folder / "checkpoints" / LAST
        self._say = say
        self.source = self._last
        self._names = checkpoint_names(self._last.parent)
        self._seen = self._stats()

    def has_changed(self) -> bool:
        """Whether there are other checkpoints by now."""
        return self._seen != self._stats()

    def find_checkpoint(self, *, resume: bool, requeue: bool, checkpoint_every: int) -> Checkpoint | None:
        """Return the checkpoint to continue; what is in the folder decides whether there is a run.

        Args:
            resume: There must be one.
            requeue: Where there is none the run begins, also in a folder in which one has begun.
            checkpoint_every: Steps between the checkpoints of a run whose settings are not in the folder.

        Raises:
            InputError: There is none, or it is damaged; or the run is to begin and there is one, or its metrics go
                further than those of a run that has no checkpoint yet; or `config.yaml` is not of a run.
        """
        self._check_config()
        if resume or (requeue and self._names):
            return self._last_or_newest()
        if requeue:
            self._check_nothing_lost(checkpoint_every)
        elif self._names:
            newest = None if self._last.exists() else newest_intact(self._last.parent)
            where = "" if newest is None else f", whose newest intact checkpoint is {_told(*newest)}"
            raise InputError(
                f"{self._folder} already holds a run{where}: continue it with "
                f"{resume_command(self._folder)}, or give another folder, as run.dir="
                f"{shlex.quote(str(unused_path(self._folder)))}"
            )
        elif found := self._records():
            raise InputError(
                f"{self._folder} already holds {' and '.join(found)} of a run without a checkpoint: "
                f"--requeue begins it again, or give another folder, as run.dir="
                f"{shlex.quote(str(unused_path(self._folder)))}"
            )
        return None

    def _check_config(self) -> None:
        """Refuse a recipe of the user's under the name that the run's own settings get, which would replace it."""
        config = self._folder / CONFIG
        check_file(config)
        if config.exists() and not is_recipe_text(config.read_bytes()):
            instead = "rename it, as to recipe.yaml, and train with that name, or choose another run.dir"
            if self._names:
                instead = "remove it, as the checkpoints hold them too, and give changes as section.key=value"
            raise InputError(
                f"{config} was written or changed by hand, and the run would replace it with its settings: {instead}"
            )

    def _last_or_newest(self) -> Checkpoint:
        """Return the last checkpoint, or where its name is gone or leads nowhere the newest intact one."""
        last = self._last
        newest = None if last.exists() else newest_intact(last.parent)
        if newest is None:
            return Checkpoint.load(last)  # or say why it cannot be
        self.source, checkpoint = newest
        gone = f"leads to {last.readlink()}, which is gone" if last.is_symlink() else "is gone"
        self._say(f"{last} {gone}: going on from the newest intact checkpoint, {_told(*newest)}")
        return checkpoint

    def _check_nothing_lost(self, checkpoint_every: int) -> None:
        """Refuse to begin again where there are no checkpoints, but metrics of steps that only come after one."""
        step = max((line["step"] for line in read_metrics(self._folder)), default=0)
        config = self._folder / CONFIG
        settings = read_recipe(config) if config.exists() else {}
        every = settings.get("run", {}).get("checkpoint_every", checkpoint_every)
        if step > 2 * every:  # the first checkpoint is on disk before the second one is begun
            raise InputError(
                f"{self._folder} holds no checkpoint, but metrics of {step} steps with a checkpoint every {every}: "
                "put its checkpoints back, or choose another run.dir"
            )
        if self._records():
            self._say(f"{self._folder} holds a run of {step} steps without a checkpoint: it begins again")

    def _records(self) -> list[str]:
        return [name for name in RECORDS if (self._folder / name).exists()]

    def _stats(self) -> dict[str, tuple[int, int]]:
        """Return what tells the checkpoints that are there from later ones."""
        found = {}
        for path in checkpoint_names(self._last.parent):
            with suppress(FileNotFoundError):  # a run that goes on here replaces them
                stat = path.lstat()
                found[path.name] = (stat.st_ino, stat.st_mtime_ns)
        return found


def _told(path: Path, checkpoint: Checkpoint) -> str:
    """Return how messages call a checkpoint."""
    return f"{path} of step {checkpoint.step}"
