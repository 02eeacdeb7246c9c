"""What `corrnet train` does with videos of one's own before it trains: packs them and chooses settings."""

import os
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from corrnet_train.cli.common import err, escape, say
from corrnet_train.cli.packed import changes_since, list_source, place_of, shares_videos, source_name
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import numbered, unused_path
from corrnet_train.utils.nearest import did_you_mean

if TYPE_CHECKING:
    from corrnet_train.config.own import Choice, OwnVideos
    from corrnet_train.config.schema import RunConfig
    from video_data import ShardSet
    from video_data.datasets import Listing
    from video_data.shards.format import SampleRecord

VAL_FRACTION = 0.2
REPORT = "report"  # folder in that of the run


def is_own(source: str) -> bool:
    """Whether what is to be trained is a folder or a csv, and no recipe."""
    from corrnet_train.config.recipes import list_recipes

    if source.lower().endswith(".csv"):
        return True
    return Path(source).is_dir() and source not in {recipe.name for recipe in list_recipes()}


def check_source(source: str) -> None:
    """Check that what is to be trained is there: videos, shards, or a recipe.

    Raises:
        InputError: There is no such file, folder or recipe; the message has names that are spelled almost so.
    """
    from corrnet_train.config.recipes import recipe_names

    path, recipes = Path(source).expanduser(), recipe_names()
    if path.exists() or any(part in recipes for part in source.split("+")):
        return
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    names = [other.name for other in beside if other.is_dir() or other.suffix.lower() in (".csv", ".yaml")]
    meant = did_you_mean(path.name, names, folder=path.parent) or did_you_mean(source, recipes)
    raise InputError(
        f"{source} is not there: neither a folder or csv of videos nor a recipe (corrnet recipe list){meant}"
    )


def settings_for(
    source: str,
    overrides: Sequence[str],
    *,
    root: Path | None = None,
    val_fraction: float | None,
    group_by: str | None,
    dry_run: bool,
) -> "RunConfig | None":
    """Pack videos where that is not done, choose the settings, and say both.

    Args:
        source: Folder of videos or of shards, or a csv of videos.
        overrides: Settings that are given, `section.key=value`.
        root: Folder to which the paths in a csv refer; None means that of the csv.
        val_fraction: As `PackOptions.val_fraction`; None means a fifth where there is no split val.
        group_by: As for packing.
        dry_run: Show what would be packed and pack nothing.

    Returns:
        The settings; None after a dry run of videos that are not packed, which shows what is known without packing.

    Raises:
        InputError: It is the folder of a run, there is a run already, `data.shards` was packed from other videos, or
            a setting or the source is wrong.
    """
    from corrnet_train.checkpoint.folders import checkpoint_names, resume_command
    from corrnet_train.config.recipes import keep_path
    from corrnet_train.training.run_log import CONFIG
    from video_data import open_shards

    path = Path(source).expanduser()
    if path.is_dir() and ((path / CONFIG).is_file() or checkpoint_names(path / "checkpoints")):
        raise InputError(f"{path} is the folder of a run; it goes on with: {resume_command(path)}")
    name = source_name(path)
    is_packed = (path / "manifest.json").is_file()
    if is_packed and name == "shards":  # under that name the packed videos of all runs lie beside the runs
        name = Path(open_shards(path).manifest.dataset).name or name
    places = [("run.dir", keep_path(f"runs/{name}")), ("data.shards", keep_path(str(path)))]
    given = _config([*places, ("optim.warmup_epochs", 0)], overrides)
    is_given = given.data.shards != path
    if not is_packed:
        usual = given.run.dir.parent / "shards" / name
        folders = (given.data.shards,) if is_given else chain([usual], numbered(usual))
        packed = _pack_once(path, root, folders, given, val_fraction, group_by, dry_run)
        if not isinstance(packed, Path):
            _show_plan(packed, given, overrides)
            return None
        shards = packed
    elif is_given:
        raise InputError(f"{path} holds shards, and data.shards names others: give one of them")
    elif any(option is not None for option in (root, val_fraction, group_by)):
        raise InputError(
            "--root, --val-fraction and --group-by are for packing: these videos are packed already"
        )
    else:
        shards = path
        manifest_hash = open_shards(path).manifest_hash
        _check_no_run(given, path, is_of_source=lambda packed: packed.manifest_hash == manifest_hash)
    return _chosen(given, shards, overrides)


def _config(
    values: list[tuple[str, Any]],
    overrides: Sequence[str],
    recipe: str = "own",
    *,
    with_options: bool = True,
) -> "RunConfig":
    """Return a recipe with values and overrides; `with_options` keeps the options of its model."""
    from corrnet_train.config.load import complete_config, text_keys
    from corrnet_train.config.recipes import merge, read_recipe

    tree = read_recipe(recipe, text_keys=text_keys())
    if not with_options:
        tree["model"].pop("options", None)
    for key, value in values:
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return complete_config(tree, overrides)


def _check_no_run(
    config: "RunConfig",
    source: Path,
    *,
    is_of_source: Callable[["ShardSet"], bool],
    changes: Callable[["ShardSet"], str] = lambda packed: "",
) -> None:
    """Refuse a folder with a run before anything is packed for another one.

    What is told depends on whether that run has these videos, as they are or as they were.

    Args:
        config: Settings of the run that is to begin.
        source: Its videos, for the message.
        is_of_source: Whether shards, those of the run that is there, hold such videos.
        changes: How the videos differ from such shards, in words; empty where they do not.
    """
    from corrnet_train.checkpoint.folders import resume_command
    from corrnet_train.training.run_folder import RunFolder, settings_of_run
    from video_data import open_shards

    if "RANK" in os.environ:  # torchrun may have started it again, so that it goes on
        return
    run = config.run.dir
    try:
        folder = RunFolder(run, say=lambda line: None)
        folder.find_checkpoint(resume=False, requeue=False, checkpoint_every=config.run.checkpoint_every)
    except InputError:
        try:
            packed = open_shards(settings_of_run(run).data.shards)
            is_other = not is_of_source(packed)
            changed = "" if is_other else changes(packed)
        except InputError:  # what the run was trained on is gone
            is_other, changed = False, ""
        if not is_other and not changed:
            raise
        mine = unused_path(run)
        anew = f"run.dir={shlex.quote(str(mine))}"
        if changed:
            start = f"model.init_from={shlex.quote(str(run))}"
            raise InputError(
                f"{run} holds a run of these videos as they were: {changed}. To train on them as they are now give "
                f"{anew} (and {start} to start from its weights); {resume_command(run)} goes on with those that it has"
            ) from None
        raise InputError(
            f"{run} holds a run of other videos than those of {source}: give this one a folder of its own, as {anew}"
        ) from None


def _pack_once(
    source: Path,
    root: Path | None,
    folders: Iterable[Path],
    given: "RunConfig",
    val_fraction: float | None,
    group_by: str | None,
    dry_run: bool,
) -> "Path | Listing":
    """Pack a source unless one of the folders holds it, and return which; of a dry run that would pack return what."""
    from corrnet_train.cli.pack import pack_and_summarize, show_listing
    from video_data import PackOptions
    from video_data.datasets.validation import split_validation
    from video_data.utils.workers import available_cores

    listing = list_source(source, root, group_by=group_by)
    options = PackOptions(num_workers=available_cores())
    splits = {entry.split for entry in listing.entries}
    fraction = val_fraction if val_fraction is not None else None if "val" in splits else VAL_FRACTION
    split = listing
    if fraction is not None:
        try:
            split = split_validation(listing, fraction, seed=options.seed)
            options = options.model_copy(update={"val_fraction": fraction})
        except InputError:
            if val_fraction is not None:
                raise
            why = (
                "no class has two videos (or groups; parts of a file are one), so that none is kept back to measure "
                "accuracy on: add at least one more video of each class"
            )
            split = replace(listing, notes=(*listing.notes, why))
    _check_no_run(
        given,
        source,
        is_of_source=lambda packed: shares_videos(split, packed),
        changes=lambda packed: changes_since(split, packed),
    )
    place = place_of(source, split, folders)
    shards = place.shards
    if place.passed_over:
        _say(place.passed_over)
    if place.is_packed:
        _say(f"packed already: {shards}")
        return shards
    for note in split.notes:
        _say(note)
    command = ["corrnet", "pack", "csv" if source.is_file() else "folder", str(source), str(shards)]
    command += [] if root is None else ["--root", str(root)]
    command += [] if options.val_fraction is None else ["--val-fraction", f"{options.val_fraction:g}"]
    command += [] if group_by is None else ["--group-by", group_by]
    if dry_run:
        show_listing(split)
        _say(
            f"they would be packed into {shards}; sizes of clips, memory and time are known when they are, from "
            f"--dry-run again after: {shlex.join(command)}"
        )
        return split
    if "RANK" in os.environ:
        raise InputError(f"one process packs, before torchrun starts several: {shlex.join(command)}")
    _say(f"packing into {shards}")
    pack_and_summarize(listing, shards, options)
    return shards


def _chosen(given: "RunConfig", shards: Path, overrides: Sequence[str]) -> "RunConfig":
    """Choose settings for packed videos, show them with their reasons, and return all settings."""
    from corrnet_train.config.own import choose_settings
    from corrnet_train.config.recipes import keep_path
    from video_data import open_shards, suggest_num_workers

    packed = open_shards(shards)
    videos = _describe(packed)
    _say(
        f"{videos.num_train} videos to learn from (train), {videos.num_eval or 'none'} to measure accuracy on (val)"
    )
    recipe, has_gpu = _recipe(given)
    stands = _given_values(given, overrides)
    choices = [
        choice for choice in _of_trained_run(given.model.init_from, packed) if choice.key not in stands
    ]
    choices += choose_settings(videos, has_gpu=has_gpu, num_workers=suggest_num_workers(), given=stands)
    values = [("run.dir", keep_path(str(given.run.dir))), ("data.shards", keep_path(str(shards)))]
    values += [(choice.key, choice.value) for choice in choices]
    # Options of the recipes are those of our models, and no keywords of what builds another one.
    config = _config(values, overrides, recipe.value, with_options=not given.model.is_of_another_package)
    _show([recipe, *choices])
    return config


def _of_trained_run(source: Path | None, packed: "ShardSet") -> "list[Choice]":
    """Choose the model of the run whose weights are taken, and its classifier, too, where that has the same classes."""
    from corrnet_train.config.own import Choice
    from corrnet_train.training.run_folder import settings_of_run
    from video_data import open_shards

    if source is None or not source.is_dir():
        return []
    try:
        trained = settings_of_run(source)
        before = open_shards(trained.data.shards)
    except InputError:  # weights of another kind, or of a run whose videos are gone
        return []
    if trained.model.is_of_another_package:
        return []
    choices = [Choice("model.name", trained.model.name, f"that of {source}")]
    if (before.task, before.classes) == (packed.task, packed.classes):
        choices.append(Choice("model.new_head", False, f"the classes are those of {source}"))
    return choices


def _show_plan(listing: "Listing", given: "RunConfig", overrides: Sequence[str]) -> None:
    """Show the settings that are chosen by the number of videos, which is known before they are packed."""
    from corrnet_train.config.own import choose_length

    counts = Counter(entry.split for entry in listing.entries)
    _check_has_train(list(counts))
    recipe, has_gpu = _recipe(given)
    values = _given_values(given, overrides)
    _show([recipe, *choose_length(counts["train"], counts["val"], has_gpu=has_gpu, given=values)])


def _recipe(given: "RunConfig") -> "tuple[Choice, bool]":
    """Return the choice of the recipe, and whether a GPU trains."""
    from corrnet_train.config.own import Choice, choose_recipe
    from corrnet_train.distributed.ranks import resolve_device

    has_gpu = resolve_device(given.run.device).type != "cpu"
    recipe, why = choose_recipe(has_gpu=has_gpu, has_weights=given.model.init_from is not None)
    return Choice("recipe", recipe, why), has_gpu


def _given_values(given: "RunConfig", overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of the settings that were given, by their keys."""
    from corrnet_train.config.load import text_keys
    from corrnet_train.config.recipes import apply_override, flatten

    tree: dict[str, Any] = {}
    for item in overrides:
        apply_override(tree, item, text_keys=text_keys())
    keys = flatten(tree)
    return {key: value for key, value in flatten(given.model_dump()).items() if key in keys}


def _check_has_train(splits: Collection[str]) -> None:
    if "train" not in splits:
        raise InputError(f"there are no videos of the split train, but of {', '.join(splits)}")


def _describe(packed: "ShardSet") -> "OwnVideos":
    from corrnet_train.config.own import OwnVideos

    num_eval = packed.num_samples("val") if "val" in packed.splits else 0
    _check_has_train(packed.splits)
    samples = list(packed.samples("train"))
    return OwnVideos(
        num_train=len(samples),
        num_eval=num_eval,
        num_frames=int(statistics.median(sample.num_frames for sample in samples)),
        frame_rate=statistics.median(map(_frame_rate, samples)),
        task=packed.task,
        short_side=int(statistics.median(min(sample.width, sample.height) for sample in samples)),
    )


def _frame_rate(sample: "SampleRecord") -> float:
    pts = sample.video_info().pts
    seconds = float((pts[-1] - pts[0]) * Fraction(*sample.time_base))
    return (len(pts) - 1) / seconds if seconds > 0 else 25.0  # one frame has no rate


def _show(choices: "list[Choice]") -> None:
    table = Table("setting", "chosen", "because", box=None, pad_edge=False, header_style="bold")
    for choice in choices:
        table.add_row(choice.key, escape(_plain(choice.value)), escape(choice.reason))
    if _is_first():
        err.print(table)
    _say("all settings are in config.yaml of the run; others are given as section.key=value")


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_first() -> bool:
    """Whether this is the process that speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _say(line: str) -> None:
    if _is_first():
        say(line)
