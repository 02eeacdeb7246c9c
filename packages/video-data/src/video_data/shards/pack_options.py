"""How videos are packed: a pydantic model that is imported in a moment, for `corrnet pack`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from video_data.utils.errors import InputError

Positive = Annotated[int, Field(ge=1)]


class StrictModel(BaseModel):
    """Frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PackOptions(StrictModel):
    """How videos are packed into shards: the one source of these options, their defaults and bounds."""

    mode: Literal["reencode", "copy"] = Field(
        default="reencode",
        description="reencode: H.264 made for random access; copy: the original bytes",
    )
    max_short_side: int | None = Field(
        default=256,
        ge=2,
        description="longest allowed shorter side when encoding, in pixels; smaller pictures keep their size",
    )
    gop: int = Field(
        default=12, ge=1, le=250, description="frames from one keyframe to the next when encoding; flow too"
    )
    crf: int = Field(default=20, ge=0, le=51, description="quality of x264 when encoding; smaller is better")
    shard_size: int = Field(default=256, ge=1, description="most samples of a shard")
    max_shard_bytes: int = Field(
        default=1 << 30, ge=1, le=1 << 40, description="a shard is closed once it holds this many bytes"
    )
    flow: bool = Field(
        default=False,
        description="compute optical flow too, for two-stream models (extra flow; about 10 times as long)",
    )
    val_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the training videos of each class that become the split val, where there is none: 0.2 is "
        "usual",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=1 << 63,
        description="seed of the shuffle that mixes classes over the shards, and of the choice of val_fraction",
    )
    num_workers: int = Field(
        default=1,
        ge=1,
        exclude=True,
        description="processes that decode and encode; the result does not depend on it",
    )
    part: tuple[Positive, Positive] | None = Field(
        default=None,
        exclude=True,
        description="(i, n) packs the i-th of n parts of the shards, counted from 1; merge_parts joins them",
    )
    overwrite: bool = Field(
        default=False,
        exclude=True,
        description="replace a finished shard set, an unfinished one of other videos or options, or other shards",
    )

    @field_validator("part")
    @classmethod
    def _check_part(cls, part: tuple[int, int] | None) -> tuple[int, int] | None:
        if part is not None and part[0] > part[1]:
            raise InputError(f"part {part[0]} of {part[1]}: allowed are 1 to {part[1]}")
        return part
