"""The names that `video_data` exports, and how they are called: a change of either has to be meant."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import video_data
from video_data import PackOptions
from video_data.media import limits

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

FACE = {
    "Batch": "video label keys positions replaced pin_memory(self)",
    "ClipConfig": (
        "num_frames=32 frame_stride=1 fps=None crop_size=224 short_side=None flip=False modality='rgb' "
        "short_side_range spacing length num_channels num_flow_channels span"
    ),
    "InputError": "",
    "LoaderState": (
        "manifest_hash split seed position balanced=False advance(self, num_samples) to_dict(self) "
        "from_dict(cls, values, *, expected=None)"
    ),
    "MissingPackageError": "",
    "MotionBenchConfig": (
        "num_train=3200 num_val=104 num_test=400 level='directions' seed=0 size=40 num_frames=24 fps=12 "
        "speeds=(1.5, 2.0, 2.5, 3.0) sprite_size=(14, 20) displacement=False num_videos"
    ),
    "PackOptions": (
        "mode='reencode' max_short_side=256 gop=12 crf=20 shard_size=256 "
        "max_shard_bytes=1073741824 flow=False val_fraction=None seed=0 num_workers=1 part=None overwrite=False"
    ),
    "PackReport": "num_packed dropped manifest num_duplicates=0 num_conflicts=0 passed_over=() flawed=()",
    "RemoteError": "status",
    "ShardError": "reason",
    "ShardSet": (
        "path manifest manifest_hash classes task label_text(self, sample) splits num_samples(self, split) "
        "class_sizes(self, split) "
        "shard_sizes(self, split) samples(self, split) sample(self, split, index) info(self, split, index) "
        "read(self, split, index) has_flow flow_info(self, split, index) read_flow(self, split, "
        "index) shard_indices(self, name) open_tar(self, name)"
    ),
    "TrainLoader": "replaced state",
    "VideoError": "reason",
    "ViewBatch": "video label keys index starts valid unreadable pin_memory(self)",
    "WorkError": "",
    "decode_views": "(source, clip, num_clips, *, num_crops=1, pixels='rgb')",
    "eval_loader": (
        "(shards, split, clip, *, num_clips=10, num_crops=1, batch_size=1, num_workers=0, rank=0, "
        "world_size=1, first=0, pixels='rgb', skip_unreadable=False, "
        "timeout=600.0)"
    ),
    "generate_motionbench": "(dest, config=None, *, num_workers=1, progress=True)",
    "inspect_shards": "(shards, *, progress=True)",
    "merge_parts": "(dest, *folders, progress=True)",
    "normalize": "(video, dtype=torch.float32, *, clip=None)",
    "open_shards": "(path, *, verify=False, cache=None, cache_bytes=68719476736, storage_options=None)",
    "pack_csv": "(csv_path, dest, *, root=None, group_by=None, options=None, progress=True)",
    "pack_folder": "(src, dest, *, group_by=None, options=None, progress=True)",
    "pack_listing": "(listing, dest, *, options=None, progress=True)",
    "sample_thumbnails": (
        "(shards, *, num_classes=50, clips_per_class=2, num_frames=8, height=96, seed=0, "
        "splits=None, num_workers=1, progress=True)"
    ),
    "suggest_num_workers": "(local_world_size=1)",
    "train_loader": (
        "(shards, split, clip, *, batch_size, seed, num_workers=0, rank=0, world_size=1, "
        "position=0, num_samples=None, repeats=1, balanced=False, error_budget=None, pixels='rgb', "
        "transform=None, "
        "timeout=600.0)"
    ),
    "verify_shards": (
        "(path, *, decode=True, num_workers=1, progress=True, cache=None, storage_options=None)"
    ),
}


def face(value):
    """Parameters of a function with their defaults; fields, methods and properties of a class."""
    if not isinstance(value, type):
        return signature(value)
    parts = fields(value)
    for owner in reversed([cls for cls in value.__mro__ if cls.__module__.startswith("video_data.")]):
        for name, member in vars(owner).items():
            if name.startswith("_") or name in ("model_config", *(part.split("=")[0] for part in parts)):
                continue
            function = getattr(member, "__func__", member)
            parts.append(f"{name}{signature(function)}" if inspect.isfunction(function) else name)
    return " ".join(parts)


def fields(value):
    if issubclass(value, BaseModel):
        values = {name: field.get_default() for name, field in value.model_fields.items()}
        required = {name for name, field in value.model_fields.items() if field.is_required()}
    elif dataclasses.is_dataclass(value):
        values = {field.name: field.default for field in dataclasses.fields(value)}
        required = {name for name, default in values.items() if default is dataclasses.MISSING}
    else:
        values = dict.fromkeys(
            re.findall(r"^    (\w+):", inspect.getdoc(value).partition("Attributes:")[2], re.M)
        )
        required = set(values)
    return [name if name in required else f"{name}={default!r}" for name, default in values.items()]


def signature(function):
    """Parameters without their types, which mypy checks."""
    found = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_the_public_names_and_their_signatures():
    assert {name: face(getattr(video_data, name)) for name in video_data.__all__} == FACE


def test_every_public_name_is_documented():
    for name in video_data.__all__:
        assert inspect.getdoc(getattr(video_data, name)), name
        assert f"`{name}" in README, name


@pytest.mark.parametrize("name", PackOptions.model_fields)
def test_the_readme_has_the_defaults_of_packing(name):
    row = next(line for line in README.splitlines() if line.startswith("| ") and f"`{name}`" in line)
    default = PackOptions.model_fields[name].default
    text = {"max_shard_bytes": "1 GiB", "mode": '"reencode"'}.get(name, str(default))
    assert text in row.split(" | ")[2]


def test_the_readme_has_the_limits():
    def row(name):
        return next(line for line in README.splitlines() if line.startswith("| ") and f"`{name}`" in line)

    assert f"| {limits.MAX_PIXELS / 1e6:.1f} million, " in row("MAX_PIXELS")
    assert f"| 2^{limits.MAX_FRAMES.bit_length() - 1}, " in row("MAX_FRAMES")
    assert f"| {limits.MAX_BYTES >> 30} GiB, " in row("MAX_BYTES")
    assert f"| {limits.MAX_CLIP_SECONDS:g} s, " in row("MAX_CLIP_SECONDS")
    assert f"| {limits.MAX_SECONDS / 3600:g} h, " in row("MAX_SECONDS")
