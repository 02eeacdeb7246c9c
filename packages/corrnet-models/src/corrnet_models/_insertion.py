"""Correlation blocks in networks of other packages, whose outputs stay what they were until the blocks are trained."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corrnet_models._blocks import CorrelationBlock
from corrnet_models._config import CorrelationConfig
from corrnet_models._errors import ModelError

Network = TypeVar("Network", bound=nn.Module)
_CHILD = "correlation"  # the name of a block in the module that it stands behind
_CLIPS = "NCTHW"  # the dimensions that a block sees


class FrameByFrame(nn.Module):
    """A network for pictures, applied to each frame of a clip; what it puts out is averaged over the frames.

    Args:
        network: Maps pictures [N, C, H, W] to a tensor [N, ...], as the networks of timm do.
        num_frames: Frames T of a clip.

    Attributes:
        network: The network; paths for `add_correlation` begin with `network.`, and its own state dict belongs here.
    """

    def __init__(self, network: nn.Module, num_frames: int) -> None:
        super().__init__()
        if num_frames < 1:
            raise ModelError(f"num_frames must be at least 1; got {num_frames}")
        self.network = network
        self.num_frames = num_frames

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: Clips [N, C, T, H, W].

        Returns:
            The mean over the frames of what the network puts out, [N, ...].

        Raises:
            ValueError: If the clips have another rank or length.
        """
        if x.dim() != 5 or x.shape[2] != self.num_frames:
            raise ModelError(f"expected clips [N, C, {self.num_frames}, H, W]; got {list(x.shape)}")
        y: Tensor = self.network(x.transpose(1, 2).flatten(0, 1))
        mean: Tensor = y.unflatten(0, (-1, self.num_frames)).mean(1)
        return mean


@dataclass(frozen=True)
class _Layout:
    """How a map of a network becomes a clip [N, C, T, H, W], and back.

    Attributes:
        dims: The dimensions in their order once tokens and frames are unfolded.
        frames: Frames that are folded into the first dimension; None where they are not.
        grid: Numbers of tokens in their order; None where the map has no tokens.
        prefix: Tokens before those of the grid.
    """

    dims: str
    frames: int | None = None
    grid: tuple[int, ...] | None = None
    prefix: int = 0

    def to_clips(self, x: Tensor) -> Tensor:
        if self.grid is not None:
            if x.shape[1] != self.prefix + math.prod(self.grid):
                raise ModelError(
                    f"expected {math.prod(self.grid)} tokens (grid {self.grid} in the order of the tokens) after "
                    f"prefix_tokens={self.prefix}; got {x.shape[1]} in all"
                )
            x = x[:, self.prefix :].unflatten(1, self.grid)
        if self.frames is not None:
            x = x.unflatten(0, (-1, self.frames))
        return x.permute([self.dims.index(name) for name in _CLIPS])

    def from_clips(self, y: Tensor) -> Tensor:
        """Undo `to_clips`; the prefix gets zeros."""
        y = y.permute([_CLIPS.index(name) for name in self.dims])
        if self.frames is not None:
            y = y.flatten(0, 1)
        if self.grid is not None:
            y = F.pad(y.flatten(1, len(self.grid)), (0, 0, self.prefix, 0))
        return y


class _InsertedBlock(CorrelationBlock):
    """A block that takes maps as its network lays them out, alone or first in a tuple."""

    def __init__(self, channels: int, num_frames: int, config: CorrelationConfig, layout: _Layout) -> None:
        super().__init__(channels, num_frames, config)
        self._layout = layout

    def forward(self, x: Any) -> Any:
        return (self._one(x[0]), *x[1:]) if isinstance(x, tuple) else self._one(x)

    def _one(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise ModelError(
                f"a correlation block behind a module got a {type(x).__name__} from it: the module runs the modules in "
                "it in a way of its own; choose a module in it or around it"
            )
        return self._add(x, self._layout.from_clips(self._branch(self._layout.to_clips(x))))

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Run behind a module, as its forward hook."""
        return self(output)


def add_correlation(model: Network, blocks: Mapping[str, CorrelationConfig], example: Any) -> Network:
    """Put correlation blocks into a network, each behind a module of it.

    The blocks start as identities (`CorrelationBlock`), so the network puts out what it did before until it is
    trained. Shapes are found by running the network on an example, in evaluation mode; blocks get the device, dtype and
    mode of their module. A block is a child `correlation` of its module, so all names of the network's own parameters
    stay. With `strict=False` its old state dict loads, and only the names of blocks are missing; the new one loads into
    the network without blocks, and only they are unexpected.

    Modules may put out maps [N, C, T, H, W] or [N, T, H, W, C], tokens [N, tokens, C] whose grid the configuration
    states, or, within a `FrameByFrame`, maps [N, C, H, W] or [N, H, W, C] or tokens of pictures. A module that puts
    out a tuple has the map first in it.

    Args:
        model: The network. It is changed in place.
        blocks: For the path of a module, as in `model.get_submodule(path)`, the block that comes behind it.
        example: What `model` takes as its one argument, usually one clip of noise. Its frames should be square: that
            is how the dimensions are told apart. Blocks take any size afterwards.

    Returns:
        The network.

    Raises:
        ValueError: If there is no such module, it is not run once in a pass, or puts out what no block can take; the
            message names it. The network is then as it was.
    """
    modules = {path: _find(model, path) for path in blocks}
    made: dict[str, _InsertedBlock] = {}

    def make(path: str, output: Any) -> None:
        made[path] = _make_block(model, path, modules[path], output, blocks[path])

    _run_once(model, modules, example, make)
    undo: list[Callable[[], None]] = []
    try:
        for path, block in made.items():
            modules[path].add_module(_CHILD, block.train(modules[path].training))
            undo.append(partial(delattr, modules[path], _CHILD))
        inserted = {f"{path}.{_CHILD}": block for path, block in made.items()}
        # A module that runs all its children, as nn.Sequential, has run its block.
        runs = _run(model, inserted, example)
        for path, block in made.items():
            if not runs[f"{path}.{_CHILD}"]:
                undo.append(modules[path].register_forward_hook(block.after).remove)
        _check_outputs(model, modules, inserted, example)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return model


def _find(model: nn.Module, path: str) -> nn.Module:
    module = model
    names = path.split(".")
    for number, name in enumerate(names):
        children = dict(module.named_children())
        if name not in children:
            place = f"{'.'.join(names[:number])} has" if number else "the network has"
            raise ModelError(f"no module {path!r}: {place} {', '.join(children) or 'no modules in it'}")
        module = children[name]
    if hasattr(module, _CHILD):
        raise ModelError(f"{path} has a {_CHILD!r} already; one block stands behind a module")
    return module


def _run(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    example: Any,
    see: Callable[[str, Any], None] = lambda path, output: None,
) -> Counter[str]:
    """Run the network once, show what modules put out, and count how often each is run."""
    runs: Counter[str] = Counter()

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            runs[path] += 1
            see(path, output)

        return count

    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    try:
        with _evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return runs


def _run_once(
    model: nn.Module, modules: Mapping[str, nn.Module], example: Any, see: Callable[[str, Any], None]
) -> None:
    runs = _run(model, modules, example, see)
    for path in modules:
        if runs[path] != 1:
            raise ModelError(
                f"{path} is run {runs[path]} times in a pass of the network, not once; choose a module that is called "
                "as a whole, once"
            )


def _check_outputs(
    model: nn.Module, modules: Mapping[str, nn.Module], inserted: Mapping[str, nn.Module], example: Any
) -> None:
    """Check that each module puts out what its block does."""
    outputs: dict[str, Any] = {}
    _run_once(model, {**inserted, **modules}, example, outputs.__setitem__)
    for path in modules:
        if outputs[path] is not outputs[f"{path}.{_CHILD}"]:
            raise ModelError(
                f"{path} runs the modules in it in a way of its own; choose a module in it or around it"
            )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _make_block(
    model: nn.Module, path: str, module: nn.Module, output: Any, config: CorrelationConfig
) -> _InsertedBlock:
    x = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(x, Tensor):
        raise ModelError(
            f"{path} puts out a {type(output).__name__}; blocks take a tensor, or a tuple with one first"
        )
    layout = _layout(path, list(x.shape), config, _frames_of(model, path))
    _, channels, num_frames, _, _ = layout.to_clips(x).shape
    if num_frames < 2:
        raise ModelError(
            f"{path} puts out one frame, {list(x.shape)}; put the block where there are two or more"
        )
    if config.relu and bool((x < 0).any()):
        raise ModelError(f"{path} puts out negative values, which relu=True would change; leave it False")
    block = _InsertedBlock(channels, num_frames, config, layout)
    weight = next((p for p in (*module.parameters(), *model.parameters()) if p.is_floating_point()), x)
    return block.to(x.device, weight.dtype)


def _frames_of(model: nn.Module, path: str) -> int | None:
    """Return the frames of the `FrameByFrame` that a module is in; None where it is in none."""
    names = path.split(".")
    around = [model.get_submodule(".".join(names[:number])) for number in range(len(names))]
    return next((module.num_frames for module in around if isinstance(module, FrameByFrame)), None)


def _layout(path: str, shape: list[int], config: CorrelationConfig, frames: int | None) -> _Layout:
    if config.grid is not None:
        wanted = 3 if frames is None else 2
        if len(shape) != 3 or len(config.grid) != wanted:
            names = "(T, H, W)" if frames is None else "(H, W), within FrameByFrame"
            raise ModelError(
                f"{path} puts out {shape}; a grid {names} is for tokens [N, tokens, C]; got {config.grid}"
            )
        order = "THW" if frames is not None else config.token_order
        sizes = dict(zip("THW"[-wanted:], config.grid, strict=True))
        grid = tuple(sizes[name] for name in order if name in sizes)
        try:
            layout = _Layout(f"N{order}C", frames, grid, config.prefix_tokens)
            layout.to_clips(torch.empty(shape, device="meta"))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        return layout
    if len(shape) == 3:
        raise ModelError(
            f"{path} puts out {shape}; for tokens [N, tokens, C] state their grid: CorrelationConfig(grid=)"
        )
    if len(shape) == 4 and frames is None:
        raise ModelError(
            f"{path} puts out {shape}, pictures: make clips of them with FrameByFrame(network, num_frames)"
        )
    if len(shape) != (5 if frames is None else 4):
        raise ModelError(
            f"{path} puts out {shape}; blocks take maps of clips, [N, C, T, H, W] or [N, T, H, W, C]"
        )
    if shape[-2] == shape[-1]:
        return _Layout("NCTHW" if frames is None else "NTCHW", frames)
    if shape[-3] == shape[-2]:
        return _Layout("NTHWC", frames)
    raise ModelError(
        f"{path} puts out {shape}: which of them are height and width cannot be told; give an example with square "
        "frames, blocks take any size afterwards"
    )
