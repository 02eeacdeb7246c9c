"""The configuration of a run: one pydantic tree, which `config.load` fills from a recipe and overrides."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from corrnet_models import CorrelationConfig
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.precision import Precision
from video_data import ClipConfig
from video_data.loading.batches import PixelFormat
from video_data.media.planes import has_triton
from video_data.sampling.clips import DEFAULT_NUM_CLIPS
from video_data.utils.messages import hide_secrets

BatchNorm = Literal["local", "sync"]
Parallel = Literal["ddp", "fsdp"]
Compile = Literal["auto", True, False, "max-autotune-no-cudagraphs"]

T = TypeVar("T")
RESUMABLE = "may differ between a run and its continuation: it does not change what is learned"
Resumable = Annotated[T, RESUMABLE]

_SECTION = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_PACKAGES = ("torchvision", "timm")
_FACTORY = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
_OF_OTHERS = "networks of other packages (torchvision/NAME, timm/NAME, package.module:factory)"
_DERIVED_OPTIONS = {"num_classes": "the classes of data.shards", "num_frames": "data.clip.num_frames"}


class ModelSection(BaseModel):
    """Which model; its clip length comes from `data.clip`, its classes from the shards."""

    model_config = _SECTION

    name: str = Field(
        "corrnet26",
        description="a name of `corrnet models`, or a network of another package: torchvision/NAME, timm/NAME, or "
        "package.module:factory, a function of the current folder or the environment",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of the model's own configuration, like dropout; of another package's network what builds "
        "it takes",
    )
    correlation: dict[str, CorrelationConfig] = Field(
        default_factory=dict,
        description="correlation blocks for a network of another package: the path of the module that each stands "
        "behind, with fields of CorrelationConfig, as {layer2: {}, layer3: {dilation: 1}}; null takes one of a "
        "recipe away",
    )

    @field_validator("correlation", mode="before")
    @classmethod
    def _drop_blocks(cls, blocks: object) -> object:
        return {k: v for k, v in blocks.items() if v is not None} if isinstance(blocks, dict) else blocks

    pixel_mean: tuple[float, ...] | None = Field(
        None,
        description="for a network of another package: mean by channel, of pixels between 0 and 1, that its weights "
        "were trained with; none: that of all clips here, 0.45",
    )
    pixel_std: tuple[PositiveFloat, ...] | None = Field(
        None, description="the standard deviation that belongs to pixel_mean; none: 0.225"
    )
    init_from: Resumable[Path | None] = Field(
        None,
        description="a checkpoint, the folder of a run or of an exported model, or a file with a state dict, whose "
        "weights to start from; unlike --resume, nothing else is taken",
    )
    new_head: bool = Field(
        False, description="with init_from: start with a new classifier, for other classes than the old ones"
    )

    frozen_stages: int = Field(
        0,
        ge=0,
        le=5,
        description="with init_from: stages that keep their weights, 1 for the stem, 2 for the stem and res2, up to 5, "
        "all but the classifier",
    )

    @property
    def is_of_another_package(self) -> bool:
        """Whether the network is none of `corrnet models`."""
        return "/" in self.name or ":" in self.name

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if not self.is_of_another_package:
            for key in ("correlation", "pixel_mean", "pixel_std"):
                if getattr(self, key):
                    raise InputError(f"model.{key} is for {_OF_OTHERS}; model.name is {self.name}")
            return self
        package, _, name = self.name.partition("/")
        if not (name and package in _PACKAGES) and not _FACTORY.fullmatch(self.name):
            raise InputError(
                f"model.name={self.name} is neither a name of `corrnet models` nor one of {_OF_OTHERS}"
            )
        if (self.pixel_mean is None) != (self.pixel_std is None) or (
            self.pixel_mean and self.pixel_std and len(self.pixel_mean) != len(self.pixel_std)
        ):
            raise InputError(
                "model.pixel_mean and model.pixel_std belong together: give a value of each for a channel"
            )
        if self.frozen_stages:
            raise InputError(
                f"model.frozen_stages is for models of `corrnet models`, and model.name is {self.name}: "
                "optim.layer_decay lowers the rate of the first layers of any network"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frozen_stages and self.init_from is None:
            raise InputError(
                f"model.frozen_stages={self.frozen_stages} would keep weights that nobody has trained: give "
                "model.init_from"
            )
        for option, source in _DERIVED_OPTIONS.items():
            if option in self.options:
                raise InputError(f"model.options.{option} cannot be set: it follows from {source}")
        if self.new_head and self.init_from is None:
            raise InputError("model.new_head is for model.init_from, which is not given")
        return self


class DataConfig(BaseModel):
    """Where the clips come from and how they are cut."""

    model_config = _SECTION

    shards: Resumable[Path] = Field(description="folder written by `corrnet pack`")

    @field_validator("shards", mode="before")
    @classmethod
    def _check_shards(cls, shards: object) -> object:
        if isinstance(shards, str) and "://" in shards:
            raise InputError(
                f"data.shards is a folder, and {hide_secrets(shards)} is none: training reads no shards "
                "behind a URL yet; copy or mount them"
            )
        return shards

    train_split: str = Field("train", description="split to learn from")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="what comes equally often in training: uniform, each video; balanced, each class, so that videos "
        "of small classes come more often. An epoch has as many clips either way",
    )
    eval_split: str | None = Field(
        "val", description="split that accuracy is measured on while training; none: it is not measured"
    )

    @field_validator("eval_split")
    @classmethod
    def _check_eval_split(cls, name: str | None) -> str | None:
        return None if name is not None and name.lower() == "none" else name

    clip: ClipConfig = Field(default_factory=ClipConfig)
    num_workers: Resumable[NonNegativeInt] = Field(
        2, description="decoding processes; 0 decodes in the training process"
    )
    error_budget: Resumable[float | None] = Field(
        None,
        ge=0,
        le=1,
        description="fraction of the training samples of the whole run that may be unreadable; each is replaced by the "
        "next one. none: one in a hundred, and in small sets 5 videos of each pass",
    )
    pixels: Literal["auto", "rgb", "yuv"] = Field(
        "auto",
        description="how clips come to the device: rgb, or yuv: as cropped planes that the device resizes and "
        "converts, with pixels that differ by rounding. auto: yuv for RGB clips on a GPU, else rgb; "
        "a run that goes on keeps what it had",
    )

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        if self.pixels == "yuv" and self.clip.modality != "rgb":
            raise InputError(
                f"data.pixels=yuv is for RGB: data.clip.modality is {self.clip.modality}; give data.pixels=rgb or auto"
            )
        return self

    def pixels_on(self, device_type: str) -> PixelFormat:
        """Return `pixels` with "auto" resolved for a kind of device, as PyTorch names it."""
        if self.pixels != "auto":
            return self.pixels
        return "yuv" if device_type == "cuda" and self.clip.modality == "rgb" and has_triton() else "rgb"


MAX_MAGNITUDE = 10  # of RandAugment


class AugmentConfig(BaseModel):
    """What makes training harder than the data is; all of it is off by default, as in the paper."""

    model_config = _SECTION

    rand_augment: float = Field(
        0,
        ge=0,
        le=MAX_MAGNITUDE,
        description="magnitude of RandAugment (Cubuk et al. 2020), 9 is usual: two operations a clip, the same for "
        "all of its frames; needs the extra augment",
    )
    mixup: float = Field(0, ge=0, description="alpha of mixup (Zhang et al. 2018), 0.8 is usual")
    cutmix: float = Field(
        0,
        ge=0,
        description="alpha of cutmix (Yun et al. 2019), 1 is usual; with mixup, batches take turns by chance",
    )
    label_smoothing: float = Field(
        0, ge=0, lt=1, description="share of the target that goes to all classes alike, 0.1 is usual"
    )
    repeats: PositiveInt = Field(
        1,
        description="repeated augmentation (Hoffer et al. 2020): clips that a batch holds of each of its videos, each "
        "cut anew",
    )


class OptimConfig(BaseModel):
    """How the weights are learned; lengths are in epochs."""

    model_config = _SECTION

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    lr: PositiveFloat = Field(0.1, description="peak learning rate, for `lr_batch_size` clips a step")
    lr_batch_size: PositiveInt | None = Field(
        None, description="batch size that `lr` is meant for; none: lr is used as it is, for any batch_size"
    )
    lr_scaling: Literal["linear", "sqrt"] = Field(
        "linear", description="how lr grows with batch_size / lr_batch_size (linear: Goyal et al. 2017)"
    )
    layer_decay: float = Field(
        1,
        gt=0,
        le=1,
        description="factor of the learning rate from each stage to the one before it, for fine-tuning",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (SGD only)")
    weight_decay: float = Field(
        1e-4, ge=0, description="decay of convolution, correlation and linear weights"
    )
    batch_size: PositiveInt = Field(32, description="clips a step over all processes")
    epochs: PositiveFloat = Field(250, description="length of the training")
    samples_per_epoch: PositiveInt | None = Field(
        None, description="clips of an epoch; none: one pass over the training split"
    )
    warmup_epochs: float = Field(40, ge=0, description="linear warm-up, part of `epochs`")
    clip_grad_norm: PositiveFloat | None = Field(None, description="largest gradient norm; none: no clipping")
    class_weights: Literal["balanced"] | None = Field(
        None,
        description="weights of the classes in the loss: balanced, in inverse proportion to their training videos, "
        "with a mean of one over the videos; none: all alike",
    )
    ema_decay: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of the average of the weights that is evaluated, 0.9999 is usual (the average reaches back "
        "over 10000 steps then, but never over more than about a tenth of the steps so far); 0: none",
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _check_class_weights(cls, value: object) -> object:
        return None if isinstance(value, str) and value.lower() == "none" else value

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"optim.warmup_epochs={self.warmup_epochs:g} is a part of optim.epochs={self.epochs:g} and cannot be "
                "more: the learning rate would never reach its peak; give both, as optim.warmup_epochs="
                f"{self.epochs / 10:g}"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """Peak learning rate for `batch_size`."""
        ratio = 1.0 if self.lr_batch_size is None else self.batch_size / self.lr_batch_size
        return self.lr * (ratio if self.lr_scaling == "linear" else math.sqrt(ratio))

    def epoch_samples(self, num_samples: int) -> int:
        """Clips of an epoch on `num_samples` training videos."""
        return self.samples_per_epoch or num_samples

    def num_steps(self, num_samples: int) -> int:
        """Return the steps of the whole training on `num_samples` training videos."""
        return math.ceil(self.epochs * self.epoch_samples(num_samples) / self.batch_size)

    def num_warmup_steps(self, num_samples: int) -> int:
        """Return the steps of the linear warm-up on `num_samples` training videos."""
        return round(self.warmup_epochs * self.epoch_samples(num_samples) / self.batch_size)


class TrainConfig(BaseModel):
    """How a step is computed; `optim.batch_size` is the global batch whatever stands here."""

    model_config = _SECTION

    micro_batch: Resumable[PositiveInt | None] = Field(
        None,
        description="clips that a process takes at once; more make up optim.batch_size by accumulation. "
        "None: optim.batch_size / processes, without accumulation",
    )
    batch_norm: BatchNorm = Field(
        "local",
        description="local: batch norm over the clips a process takes at once; sync: over those of all processes",
    )
    parallel: Resumable[Parallel] = Field(
        "ddp",
        description="ddp: each process holds the whole model; fsdp: weights, gradients and optimizer state are split "
        "among them, and so are checkpoints",
    )
    keep_every: Resumable[PositiveInt | None] = Field(
        None, description="steps between checkpoints that are kept beside last and best"
    )
    timeout: Resumable[PositiveFloat] = Field(
        600,
        description="seconds after which waiting for another process is an error; under torchrun half of it for "
        "those of the loader",
    )
    channels_last: Resumable[bool] = Field(
        True, description="keep convolution weights in channels_last_3d, as clips are"
    )
    compile: Resumable[Compile] = Field(
        "auto",
        description="compile the model with torch.compile, whose first step takes a minute; auto: on GPUs with "
        "parallel=ddp and batch_norm=local; max-autotune-no-cudagraphs: also time kernels against each other, which "
        "takes longer",
    )
    grad_checkpointing: Resumable[bool] = Field(
        False, description="recompute each block in the backward pass: less memory, about a third more time"
    )

    def check_parallel(self, *, launched: bool) -> None:
        """Check that the processes can share the model as asked.

        Args:
            launched: Whether torchrun has started the processes.

        Raises:
            ValueError: It is to be split, and is compiled or belongs to a process without others.
        """
        if self.parallel == "fsdp" and not launched:
            raise InputError(
                "train.parallel=fsdp splits the model among processes of torchrun, and this is one without it: start "
                "it with torchrun, or give train.parallel=ddp, which also continues checkpoints of fsdp"
            )
        if self.parallel == "fsdp" and self.compile not in ("auto", False):
            raise InputError(
                f"train.compile={str(self.compile).lower()} works with train.parallel=ddp only, got fsdp: give one or "
                "the other"
            )

    def compile_mode(self, device_type: str) -> str | None:
        """Return the mode of `torch.compile` on "cpu" or "cuda", None for eager execution."""
        if self.compile == "auto":
            is_tried = self.parallel == "ddp" and self.batch_norm == "local"
            return "default" if device_type == "cuda" and is_tried and has_triton() else None
        if isinstance(self.compile, bool):
            return "default" if self.compile else None
        return self.compile

    def norm_batch(self, batch_size: int, *, world_size: int = 1) -> int:
        """Clips over which batch norm normalizes; arguments as for `accumulation`."""
        micro_batch, _ = self.accumulation(batch_size, world_size=world_size)
        return micro_batch * (world_size if self.batch_norm == "sync" else 1)

    def accumulation(self, batch_size: int, *, world_size: int = 1) -> tuple[int, int]:
        """Split the global batch: (clips of a micro-batch, micro-batches a step).

        Args:
            batch_size: Clips a step over all processes, `optim.batch_size`.
            world_size: Number of processes.

        Raises:
            ValueError: The batch cannot be split evenly.
        """
        if self.micro_batch is None:
            if batch_size % world_size:
                raise InputError(
                    f"optim.batch_size={batch_size} cannot be shared equally by {world_size} processes: "
                    f"give a multiple of {world_size}, like {_multiple(batch_size, world_size)}"
                )
            return batch_size // world_size, 1
        together = self.micro_batch * world_size
        if batch_size % together:
            raise InputError(
                f"optim.batch_size={batch_size} is no multiple of train.micro_batch={self.micro_batch} x "
                f"{world_size} processes = {together}: give a multiple, like {_multiple(batch_size, together)}, "
                "or another train.micro_batch"
            )
        return self.micro_batch, batch_size // together


class EvalConfig(BaseModel):
    """How accuracy is measured (paper section 5: uniformly spaced clips, class probabilities averaged)."""

    model_config = _SECTION

    num_clips: Resumable[PositiveInt] = Field(
        DEFAULT_NUM_CLIPS,
        description="clips spaced uniformly over each video by `corrnet eval`, `predict` and `features`",
    )
    batch_size: Resumable[PositiveInt] = Field(4, description="videos a step of each process, while training")
    every_epochs: Resumable[float] = Field(
        1, ge=0, description="epochs between evaluations while training; 0: only at the end"
    )
    num_clips_training: Resumable[PositiveInt] = Field(
        1, description="clips a video in the evaluations while training"
    )
    after_training: Resumable[bool] = Field(
        False,
        description="measure data.eval_split with num_clips when training is done, write a page of it (report) and say "
        "how the model is used; with several processes it says how it is measured",
    )
    patience: Resumable[PositiveInt | None] = Field(
        None,
        description="evaluations without a better accuracy after which training ends early; none: it goes on to its "
        "end",
    )
    precise_bn: NonNegativeInt = Field(
        0, description="clips from which batch norm's statistics are estimated anew before each evaluation"
    )


class RunSettings(BaseModel):
    """Where the run is written and what it runs on; only seed and precision change what is learned."""

    model_config = _SECTION

    dir: Resumable[Path] = Field(
        Path("runs/default"), description="folder of checkpoints, metrics and TensorBoard events"
    )
    seed: int = Field(0, description="seed of weights, order and augmentation")
    device: Resumable[str] = Field("auto", description="auto (cuda when there is one), cpu, cuda or cuda:N")
    precision: Precision = Field(
        "fp32", description="bf16, fp16: autocast, weights stay in fp32; fp16 scales the loss"
    )
    deterministic: Resumable[bool] = Field(
        False,
        description="take kernels alone that repeat a run to the bit on a GPU, also one that was stopped and resumed; "
        "slower, and not for R2D, whose max pooling has no such gradient. false: cuDNN times its kernels and keeps the "
        "fastest. CPUs repeat themselves anyway",
    )
    checkpoint_every: Resumable[PositiveInt] = Field(500, description="steps between checkpoints")
    log_every: Resumable[PositiveInt] = Field(10, description="steps between lines of metrics.jsonl")
    wandb: Resumable[str | None] = Field(
        None, description="project of Weights & Biases to log to as well (extra wandb); null: no such log"
    )

    @field_validator("wandb")
    @classmethod
    def _check_wandb(cls, name: str | None) -> str | None:
        if name is not None and name.lower() in ("", "none", "false", "no", "off"):
            raise InputError("run.wandb is the name of a project, and null for no log")
        return name


class RunConfig(BaseModel):
    """Everything that defines a run. `corrnet train` writes it to `config.yaml` in the run's folder."""

    model_config = _SECTION

    model: ModelSection = Field(default_factory=ModelSection)
    data: DataConfig
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    run: RunSettings = Field(default_factory=RunSettings)

    @model_validator(mode="after")
    def _check_other_package(self) -> Self:
        given = {
            "train.grad_checkpointing=true": self.train.grad_checkpointing,
            "train.parallel=fsdp": self.train.parallel == "fsdp",
        }
        for setting, is_given in given.items():
            if is_given and self.model.is_of_another_package:
                raise InputError(
                    f"{setting} goes by the blocks of models of `corrnet models`, and model.name is "
                    f"{self.model.name}: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _check_augment(self) -> Self:
        if self.augment.rand_augment and self.data.clip.modality != "rgb":
            raise InputError(
                f"augment.rand_augment is for RGB: data.clip.modality is {self.data.clip.modality}, and turning a "
                "picture would have to turn its optical flow"
            )
        return self

    @model_validator(mode="after")
    def _check_balance(self) -> Self:
        if self.data.sampling == "balanced" and self.optim.class_weights is not None:
            raise InputError(
                "data.sampling=balanced and optim.class_weights=balanced both make small classes count more, and "
                "together they would count too much: give one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_eval(self) -> Self:
        if self.eval.patience is not None and not (self.data.eval_split and self.eval.every_epochs):
            raise InputError(
                f"eval.patience={self.eval.patience} ends training by the evaluations on its way, and there are none: "
                "give data.eval_split and eval.every_epochs"
            )
        if self.data.eval_split is None and self.eval.precise_bn:
            raise InputError(
                f"eval.precise_bn={self.eval.precise_bn} is for the evaluations while training, and "
                "data.eval_split=none makes none of them: give eval.precise_bn=0 or a split"
            )
        return self


def _multiple(value: int, of: int) -> int:
    return max(1, round(value / of)) * of
