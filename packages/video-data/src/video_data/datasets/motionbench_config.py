"""What MotionBench consists of: a pydantic model that is imported in a moment, for `corrnet motionbench`."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from video_data.utils.errors import InputError

Level = Literal["directions", "easy", "medium", "hard"]


class MotionBenchConfig(BaseModel):
    """What `generate_motionbench` makes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_train: int = Field(
        default=3200, ge=0, description="training videos; the classes take turns, so splits are balanced"
    )
    num_val: int = Field(default=104, ge=0, description="validation videos")
    num_test: int = Field(default=400, ge=0, description="test videos")
    level: Level = Field(
        default="directions",
        description="directions: one patch, 8 directions; easy, medium, hard: 30 motions, with ever more beside them",
    )
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="seed of all appearances")
    size: int = Field(
        default=40, ge=16, multiple_of=2, description="side of the square picture in pixels, even"
    )
    num_frames: int = Field(default=24, ge=1, description="frames of a video")
    fps: int = Field(default=12, ge=1, description="frames per second")
    speeds: tuple[float, ...] = Field(
        default=(1.5, 2.0, 2.5, 3.0),
        min_length=1,
        description="of the level directions: pixels from one frame to the next; one is drawn for each video",
    )
    sprite_size: tuple[int, int] = Field(
        default=(14, 20),
        description="of the level directions: smallest and largest side of the moving patch in pixels",
    )
    displacement: bool = Field(
        default=False,
        description="write the true displacement of every pixel beside the videos, of the levels but directions",
    )

    @model_validator(mode="after")
    def _check_sprite(self) -> Self:
        if not 2 <= self.sprite_size[0] <= self.sprite_size[1] <= self.size:
            raise InputError(
                f"sprite_size must be (smallest, largest) from 2 to size {self.size}, got {self.sprite_size}"
            )
        return self

    @model_validator(mode="after")
    def _check_displacement(self) -> Self:
        if self.displacement and self.level == "directions":
            raise InputError("displacement is known of the levels easy, medium and hard; level is directions")
        return self

    @property
    def num_videos(self) -> dict[str, int]:
        """Videos of each split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}
