"""Packing videos into shards: WebDataset tars, an index beside each, one manifest."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from video_data.datasets import MISSING, Entry, Listing, list_csv, list_folder
from video_data.datasets.listing import NO_LABEL, TWICE, require_files
from video_data.datasets.validation import split_validation
from video_data.media.encode import check_encoder
from video_data.media.flow import check_flow
from video_data.packing._ingest import Refused, load
from video_data.packing._journal import (
    Group,
    GroupRecord,
    Journal,
    Plan,
    listing_hash,
    listing_line,
    tool_versions,
)
from video_data.packing._shard_writer import ShardWriter
from video_data.sampling.order import permutation
from video_data.shards.format import (
    MANIFEST_NAME,
    SPLITS,
    Coverage,
    DroppedEntry,
    Duplicate,
    FlawedVideo,
    Manifest,
    PassedOver,
    SampleRecord,
    ShardEntry,
    ShardIndex,
    Split,
    SplitSummary,
    Task,
    model_bytes,
    parse_file,
)
from video_data.shards.pack_options import PackOptions
from video_data.utils.errors import InputError, WorkError
from video_data.utils.files import locked, write_atomic
from video_data.utils.messages import part_name
from video_data.utils.pool import map_in_order

_MOST_LISTED = 1000  # groups of equal videos and flawed videos; all are counted


@dataclass(frozen=True)
class PackReport:
    """What packing did.

    Attributes:
        num_packed: Videos in the shards; of a part, those of the part.
        dropped: Source of each video that was left out, and why, with the details.
        manifest: Path of the manifest; None after a part, since `merge_parts` writes it.
        num_duplicates: Groups of samples of different splits that were packed from equal files.
        num_conflicts: Groups of samples that were packed from equal files and have different labels.
        passed_over: What was found beside the listed videos, by reason.
        flawed: Packed videos whose originals have damaged frames or end before their containers say; of a part none.
    """

    num_packed: int
    dropped: list[tuple[str, str]]
    manifest: Path | None
    num_duplicates: int = 0
    num_conflicts: int = 0
    passed_over: tuple[PassedOver, ...] = ()
    flawed: tuple[FlawedVideo, ...] = ()


def pack_folder(
    src: str | Path,
    dest: str | Path,
    *,
    group_by: str | None = None,
    options: PackOptions | None = None,
    progress: bool = True,
) -> PackReport:
    """Pack a folder of videos, `src/<class>/<video>` or `src/<split>/<class>/<video>`, into shards.

    What the folders are taken for is described at `list_folder`. Otherwise as `pack_listing`.

    Args:
        src: Folder of the videos.
        dest: Folder for the shards; it is made when it does not exist.
        group_by: With `PackOptions.val_fraction`: regular expression over the path of a video below `src`, whose first
            group in parentheses, or else all that it matches, names the recording; its videos stay together.
        options: How to pack; None means the defaults.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: There are no videos or only one class, or as in `list_folder` and `pack_listing`.
    """
    check_group_by(group_by, options)
    check_destination(dest, options)
    listing = list_folder(src, group_by=group_by)
    return pack_listing(listing, dest, options=options, progress=progress)


def pack_csv(
    csv_path: str | Path,
    dest: str | Path,
    *,
    root: str | Path | None = None,
    group_by: str | None = None,
    options: PackOptions | None = None,
    progress: bool = True,
) -> PackReport:
    """Pack the videos that a csv lists, with the header `path,label[,split][,start,end]`, as `pack_listing` does.

    Args:
        csv_path: UTF-8, comma separated; other columns are not read. Without `split` all videos belong to
            train.
        dest: Folder for the shards; it is made when it does not exist.
        root: Folder to which relative paths refer; None means the folder of the csv.
        group_by: With `PackOptions.val_fraction`: a column that names the recording. Videos of one recording stay
            together.
        options: How to pack; None means the defaults.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: The csv has no column path or label or a wrong row, or as in `list_csv` and `pack_listing`.
    """
    check_group_by(group_by, options)
    check_destination(dest, options)
    listing = list_csv(csv_path, root, group_by=group_by)
    return pack_listing(listing, dest, options=options, progress=progress)


def check_group_by(group_by: str | None, options: PackOptions | None) -> None:
    """Raise ValueError where groups are named and no split is made that could part them."""
    if group_by is not None and (options is None or options.val_fraction is None):
        raise InputError(
            f"group_by {group_by!r} (--group-by) keeps videos together in a validation split that val_fraction "
            "(--val-fraction) makes: give that too, as 0.2"
        )


def check_destination(dest: str | Path, options: PackOptions | None = None) -> None:
    """Check what can be said of a folder for shards before videos are listed.

    Args:
        dest: Folder for the shards.
        options: How to pack; None means the defaults.

    Raises:
        ValueError: Another process packs into it, or it holds a finished set or shards that no unfinished packing made,
            and `options.overwrite` is off.
    """
    dest, options = Path(dest), options or PackOptions()
    if dest.is_dir():
        with _only_packer(dest, options.part):
            _refuse_others(dest, options)


def pack_listing(
    listing: Listing, dest: str | Path, *, options: PackOptions | None = None, progress: bool = True
) -> PackReport:
    """Pack the videos of a data set into shards.

    Videos that cannot be read are listed in the manifest with the reason, and counted by it for each split. The same
    videos and options give byte-identical shards, whatever the number of workers or parts. When it is stopped, at any
    moment and in any way, the same call goes on: shards that were finished are not made again.

    Args:
        listing: What to pack, as the functions `list_...` return it.
        dest: Folder for the shards; it is made when it does not exist.
        options: How to pack; None means the defaults.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: No listed video is there; another process packs into `dest`; `options.overwrite` is off, and `dest`
            holds a finished set, an unfinished one of other videos or options, or shards that no unfinished packing
            made; it is on for a part; a video has a span and is not to be re-encoded; `options.val_fraction` is given
            and there is a split val already; or this FFmpeg cannot encode H.264.
        ImportError: `options.flow` is on and OpenCV is missing.
        WorkError: No video can be read, or a worker process died.
        OSError: Writing failed. No file is left half-written under its final name.
    """
    options = options or PackOptions()
    check_destination(dest, options)
    require_files(listing)
    if options.part is not None and options.overwrite:
        raise InputError(
            "overwrite with a part: jobs would remove each other's shards; pack into a new folder"
        )
    if options.mode == "reencode":
        check_encoder()
    elif any(entry.span for entry in listing.entries):
        raise InputError("parts of videos can only be cut by encoding them again: pack with mode reencode")
    if options.flow:
        check_encoder()
        check_flow()
    if options.val_fraction is not None:
        listing = split_validation(listing, options.val_fraction, seed=options.seed)
    _check_listing(listing)
    entries = _shuffled(listing.entries, options.seed)
    listed = [listing_line(entry) for entry in entries]
    plan = _plan(listing, entries, listed, options)
    groups = _members(plan.groups, entries)
    with _only_packer(Path(dest), options.part):
        _refuse_others(Path(dest), options)
        journal = _open_journal(Path(dest), plan, listed, overwrite=options.overwrite)
        if options.part is None:
            _pack_groups(groups, journal, plan, options, progress)
            return _finish(journal, plan)
        number, num_parts = options.part
        groups = groups[number - 1 :: num_parts]
        _pack_groups(groups, journal, plan, options, progress)
    records = [journal.record(group) for group, _ in groups]
    shards = [shard for record in records if record for shard in record.shards]
    dropped = [entry for record in records if record for entry in record.dropped]
    return PackReport(sum(shard.num_samples for shard in shards), _messages(dropped), None)


@contextmanager
def _only_packer(dest: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Keep other processes of this machine from packing the same into a folder; those of other parts may."""
    dest.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        locks = (
            [(dest / ".lock", False)]
            if part is None
            else [(dest / ".lock", True), (dest / f".lock-{part[0]}", False)]
        )
        for path, shared in locks:
            try:
                stack.enter_context(locked(path, wait=False, shared=shared))
            except BlockingIOError:
                what = f" part {part[0]}" if part and not shared else ""
                raise InputError(
                    f"another process packs{what} into {dest}: wait for it, or choose another folder"
                ) from None
            if not shared:
                stack.callback(path.unlink, missing_ok=True)
        yield


def merge_parts(dest: str | Path, *folders: str | Path, progress: bool = True) -> PackReport:
    """Join what was packed with `PackOptions.part` into one finished set.

    Args:
        dest: Folder of the finished set, into which parts may have been packed.
        folders: Other folders with parts. Their shards are linked, or copied where that is not possible.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: A folder has no part or one of another packing, parts are missing, or another process packs into
            `dest`, or it holds a finished set or shards of another one; the message names them.
        WorkError: No part has a video that can be read.
    """
    target = Journal(Path(dest))
    others = [Journal(Path(folder)) for folder in folders]
    journals = [journal for journal in (target, *others) if journal.plan() is not None]
    for journal in others or [target]:
        if journal not in journals:
            raise InputError(f"{journal.dest} holds no part of a packing: pack into it with --part I/N first")
    plan, listed = journals[0].plan(), journals[0].listed()
    assert plan is not None
    for journal in journals[1:]:
        if difference := journal.difference(plan, listed):
            raise InputError(f"{journal.dest} holds a part of another packing: {difference}")
    with _only_packer(target.dest, None):
        _refuse_others(target.dest)
        if target not in journals:
            target.begin(plan, listed)
        taken = map_in_order(
            partial(_take_group, target, others), plan.groups, num_workers=1, title="merge", progress=progress
        )
        with closing(taken):
            for _ in taken:
                pass
        missing = [group.name for group in plan.groups if target.record(group) is None]
        if missing:
            raise InputError(
                f"parts are missing: {len(missing)} of {len(plan.groups)} groups of videos are not packed, "
                f"the first is {missing[0]}"
            )
        return _finish(target, plan)


def _take_group(target: Journal, others: Sequence[Journal], group: Group) -> None:
    for other in others:
        if target.record(group) is None:
            target.take(other, group)


def _plan(listing: Listing, entries: Sequence[Entry], listed: Sequence[str], options: PackOptions) -> Plan:
    groups = []
    for split in SPLITS:
        count = sum(entry.split == split for entry in entries)
        for number, start in enumerate(range(0, count, options.shard_size)):
            size = min(options.shard_size, count - start)
            groups.append(Group(name=f"{split}-{number:06d}", split=split, num_entries=size))
    return Plan(
        listing_sha256=listing_hash(listed),
        dataset=listing.dataset,
        classes=listing.class_names,
        task=listing.task,
        options=options,
        tool=tool_versions(),
        groups=tuple(groups),
        dropped=tuple(_dropped(entry, reason) for entry, reason in listing.dropped),
        passed_over=listing.passed_over,
        notes=listing.notes,
    )


def _check_listing(listing: Listing) -> None:
    """Raise ValueError where two videos or classes have one name, or a label is no class."""
    for what, names in (
        ("videos", Counter((entry.split, entry.source, entry.span) for entry in listing.entries)),
        ("classes", Counter(listing.class_names)),
    ):
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise InputError(f"two {what} of the listing have the same name: {twice}")
    for entry in listing.entries:
        if (entry.value is None) == (listing.task == "regression"):
            has = "no value" if entry.value is None else "a value"
            raise InputError(f"{entry.source} has {has}, and the task of the listing is {listing.task}")
    labels = {label for entry in listing.entries for label in (entry.label, *entry.other_labels)}
    if unknown := sorted(labels - set(listing.class_names)):
        raise InputError(f"the label {unknown[0]!r} is none of the {len(listing.class_names)} classes")


def _members(groups: Iterable[Group], entries: Sequence[Entry]) -> list[tuple[Group, Sequence[Entry]]]:
    """Return the groups with their entries."""
    members, start = [], 0
    for group in groups:
        members.append((group, entries[start : start + group.num_entries]))
        start += group.num_entries
    return members


def _refuse_others(dest: Path, options: PackOptions | None = None) -> None:
    """Raise ValueError where a folder holds what packing or merging (without options) would replace or remove."""
    if options and options.overwrite:
        return
    can_overwrite = options and options.part is None
    remedy = "choose another folder" + (", or overwrite it (--overwrite)" if can_overwrite else "")
    if (dest / MANIFEST_NAME).exists():
        raise InputError(f"{dest} holds a finished shard set; {remedy}")
    if others := Journal(dest).unnamed_shards():
        raise InputError(
            f"{dest} holds {len(others)} files with names of shards, as {others[0].name}, that no unfinished packing "
            f"made; {remedy}"
        )


def _open_journal(dest: Path, plan: Plan, listed: Sequence[str], *, overwrite: bool) -> Journal:
    """Return the journal of an unfinished packing of the same videos and options, or a new one."""
    journal = Journal(dest)
    if (dest / MANIFEST_NAME).exists():
        journal.remove()
        (dest / MANIFEST_NAME).unlink()  # from here on the folder is no finished set
    if difference := journal.difference(plan, listed):
        if journal.is_started() and not overwrite:
            raise InputError(
                f"{dest} holds an unfinished packing with a difference: {difference}. Pack as before to go on, "
                "choose another folder, or begin anew with overwrite (--overwrite)"
            )
        journal.remove()
    for file in journal.unnamed_shards():
        file.unlink()  # of what is overwritten, or of a packing that finished no group
    if journal.plan() is None:
        journal.begin(plan, listed)
    return journal


def _pack_groups(
    groups: Sequence[tuple[Group, Sequence[Entry]]],
    journal: Journal,
    plan: Plan,
    options: PackOptions,
    progress: bool,
) -> None:
    """Pack the groups that are not done."""
    left = [(group, entries) for group, entries in groups if journal.record(group) is None]
    journal.clean([group for group, _ in left])
    labels = {name: label for label, name in enumerate(plan.classes)}
    queue = [entry for _, entries in left for entry in entries]
    results = map_in_order(
        partial(load, options=options),
        queue,
        num_workers=options.num_workers,
        title="pack" if options.part is None else f"pack part {options.part[0]} of {options.part[1]}",
        progress=progress,
        done=sum(len(entries) for _, entries in groups) - len(queue),
        describe=lambda entry: part_name(entry.source, entry.span),
    )
    with closing(results):
        for group, entries in left:
            dropped = []
            with ShardWriter(journal.dest, group.name, group.split, labels, options) as writer:
                for entry in entries:
                    result = next(results)
                    if isinstance(result, Refused):
                        dropped.append(_dropped(entry, *result))
                    else:
                        writer.add(entry, result)
            journal.write(group, GroupRecord(shards=tuple(writer.shards), dropped=tuple(dropped)))


def _finish(journal: Journal, plan: Plan) -> PackReport:
    """Write the manifest of a set whose groups are all done."""
    dest = journal.dest
    records = [record for group in plan.groups if (record := journal.record(group)) is not None]
    assert len(records) == len(plan.groups)
    shards = [shard for record in records for shard in record.shards]
    dropped = [*plan.dropped, *(entry for record in records for entry in record.dropped)]
    if not shards:
        journal.remove()
        unread = [entry for entry in dropped if entry.reason not in (MISSING, NO_LABEL, TWICE)]
        ((source, message), *_) = _messages(unread or dropped)
        failure = WorkError if unread else InputError
        raise failure(f"none of {len(dropped)} videos can be read; {source}: {message}")
    totals = _Totals(plan.classes, plan.task)
    for shard in shards:
        path = dest / f"{shard.name}.json"
        totals.add(shard.split, parse_file(ShardIndex, path.read_bytes(), path).samples)
    duplicates, repeats = totals.duplicates()
    num_conflicts = sum(bool(group.labels) for group in (*duplicates, *repeats))
    manifest = Manifest(
        dataset=plan.dataset,
        classes=plan.classes,
        task=plan.task,
        splits=totals.summaries(),
        coverage=_coverage(shards, dropped),
        shards=tuple(shards),
        dropped=tuple(sorted(dropped, key=lambda entry: (entry.split, entry.source, entry.reason))),
        passed_over=plan.passed_over,
        notes=plan.notes,
        num_conflicts=num_conflicts,
        num_duplicates=len(duplicates),
        duplicates=tuple(duplicates[:_MOST_LISTED]),
        num_repeats=len(repeats),
        repeats=tuple(repeats[:_MOST_LISTED]),
        num_flawed=len(totals.flawed),
        flawed=tuple(totals.flawed[:_MOST_LISTED]),
        options=plan.options,
        tool=plan.tool,
    )
    for file in dest.glob(f".{MANIFEST_NAME}.*.tmp"):
        file.unlink()  # of a packing that was killed here
    write_atomic(dest / MANIFEST_NAME, model_bytes(manifest, indent=1))
    journal.remove()
    num_packed = sum(shard.num_samples for shard in shards)
    return PackReport(
        num_packed,
        _messages(manifest.dropped),
        dest / MANIFEST_NAME,
        len(duplicates),
        num_conflicts,
        plan.passed_over,
        tuple(totals.flawed),
    )


class _Totals:
    """Sums over the samples of a set."""

    def __init__(self, classes: Sequence[str], task: Task) -> None:
        self.flawed: list[FlawedVideo] = []
        self._classes = classes
        self._task = task
        self._num_samples: Counter[Split] = Counter()
        self._counts: dict[Split, Counter[int]] = {split: Counter() for split in SPLITS}
        self._sources: dict[str, set[tuple[str, str, frozenset[int], float | None]]] = defaultdict(set)

    def add(self, split: Split, samples: Iterable[SampleRecord]) -> None:
        for sample in samples:
            labels = sample.labels(self._task)
            self._num_samples[split] += 1
            self._counts[split].update(labels)
            self._sources[sample.source_sha256].add((split, sample.source, frozenset(labels), sample.value))
            if sample.delivery and sample.delivery.is_flawed:
                self.flawed.append(FlawedVideo(split=split, source=sample.source, delivery=sample.delivery))

    def summaries(self) -> dict[Split, SplitSummary]:
        """Return the counts of the splits that have samples."""
        return {
            split: SplitSummary(
                num_samples=self._num_samples[split],
                per_class={name: counts[label] for label, name in enumerate(self._classes)},
            )
            for split, counts in self._counts.items()
            if counts
        }

    def duplicates(self) -> tuple[list[Duplicate], list[Duplicate]]:
        """Return samples of equal files: those in different splits, and those in one split alone.

        Those with different labels come first.
        """
        across: list[Duplicate] = []
        within: list[Duplicate] = []
        for group in self._sources.values():
            samples = tuple(sorted({(split, source) for split, source, *_ in group}))
            if len(samples) > 1:
                sets = [labels for _, _, labels, _ in group]
                differing = frozenset.union(*sets) - frozenset.intersection(*sets)
                if len({value for *_, value in group}) > 1:
                    differing = sets[0]  # the one name of the values
                found = Duplicate(samples=samples, labels=tuple(sorted(differing)))
                (across if len({split for split, _ in samples}) > 1 else within).append(found)

        def order(duplicate: Duplicate) -> tuple[bool, tuple[tuple[str, str], ...]]:
            return not duplicate.labels, duplicate.samples

        return sorted(across, key=order), sorted(within, key=order)


def _coverage(shards: Iterable[ShardEntry], dropped: Iterable[DroppedEntry]) -> dict[Split, Coverage]:
    """Return what became of the videos of each split that has any."""
    packed: Counter[Split] = Counter()
    for shard in shards:
        packed[shard.split] += shard.num_samples
    reasons: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    for entry in dropped:
        reasons[entry.split][entry.reason] += 1
    return {
        split: Coverage(
            num_listed=packed[split] + counts.total(),
            num_packed=packed[split],
            num_missing=counts.pop(MISSING, 0),
            left_out=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        )
        for split, counts in reasons.items()
        if packed[split] or counts
    }


def _dropped(entry: Entry, reason: str, message: str = "") -> DroppedEntry:
    details = "" if message == reason else message
    return DroppedEntry(
        source=entry.source,
        span=entry.span,
        split=entry.split,
        label=entry.label,
        reason=reason,
        message=details,
    )


def _messages(dropped: Iterable[DroppedEntry]) -> list[tuple[str, str]]:
    return [(part_name(entry.source, entry.span), entry.message or entry.reason) for entry in dropped]


def _shuffled(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Entries by split, mixed within each so that every shard holds many classes."""
    result: list[Entry] = []
    for split in SPLITS:
        members = [entry for entry in entries if entry.split == split]
        members.sort(key=lambda entry: (entry.source, entry.span or (0, 0)))
        result += [members[i] for i in permutation(len(members), seed)]
    return result
