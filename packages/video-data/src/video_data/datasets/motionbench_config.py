"""What MotionBench consists of: a pydantic model that is imported in a moment, for `corrnet motionbench`."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from video_data.utils.errors import InputError


class MotionBenchConfig(BaseModel):
    """What `generate_motionbench` makes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_train: int = Field(
        default=3200, ge=0, description="training videos; class i % 8 for video i, so splits are balanced"
    )
    num_val: int = Field(default=104, ge=0, description="validation videos")
    num_test: int = Field(default=400, ge=0, description="test videos")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="seed of all appearances")
    size: int = Field(
        default=40, ge=16, multiple_of=2, description="side of the square picture in pixels, even"
    )
    num_frames: int = Field(default=24, ge=1, description="frames of a video")
    fps: int = Field(default=12, ge=1, description="frames per second")
    speeds: tuple[float, ...] = Field(
        default=(1.5, 2.0, 2.5, 3.0),
        min_length=1,
        description="lengths of the step from one frame to the next in pixels; one is drawn for each video",
    )
    sprite_size: tuple[int, int] = Field(
        default=(14, 20), description="smallest and largest side of the moving patch in pixels"
    )

    @model_validator(mode="after")
    def _check_sprite(self) -> Self:
        if not 2 <= self.sprite_size[0] <= self.sprite_size[1] <= self.size:
            raise InputError(
                f"sprite_size must be (smallest, largest) from 2 to size {self.size}, got {self.sprite_size}"
            )
        return self

    @property
    def num_videos(self) -> dict[str, int]:
        """Videos of each split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}
