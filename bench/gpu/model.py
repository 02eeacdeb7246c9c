"""A model of the step: bytes, FLOPs and time of each layer, for measurements to be set beside.

    python -m bench.gpu.model                                # totals of the five networks
    python -m bench.gpu.model --network corrnet26            # its stages, the correlation blocks apart
    python -m bench.gpu.model --network corrnet26 --layers   # each of its layers

A real step (autocast to 16 bit, cross-entropy, backward pass, fused SGD with momentum) runs over fake tensors, which
have shapes but no memory. Every operation that reaches PyTorch's dispatcher is written down with its module; nothing is
counted by hand for a network. A pass reads and writes tensors once, whole:

| operation | passes |
|---|---|
| convolution, operator, classifier | reads input and weight, writes output |
| backward: convolution, classifier | reads dy and weight, writes dx; reads dy and input, writes dw |
| backward: operator | reads dy, frames and weight, writes dx; reads dy and frames, writes dw |
| batch norm in training | reads x, writes statistics; reads x, writes y |
| backward: batch norm | reads dy and x, writes sums; reads dy and x, writes dx |
| batch norm in inference | reads x, writes y |
| ReLU, addition, concatenation, pooling | reads inputs, writes outputs |
| backward: ReLU | reads dy and the output that it kept, writes dx |
| backward: what is used twice | reads both gradients, writes their sum |
| autocast | reads an fp32 weight (and the clip), writes 16 bit; backward the gradient of the weight, the other way |
| update | reads weight, gradient and momentum, writes weight and momentum |

Views and `zero_grad` cost nothing. Averaged weights, clipping and data are left out, as in the step that stage
`network` measures. FLOPs are those of PyTorch's formulas: two for a multiply-accumulate of convolutions, operator and
classifier, none for anything else.

A pass takes max(bytes / copy rate, FLOPs / matrix rate), with the rates that the machine reached in a large copy and a
large bfloat16 product. Launches, caches, shapes that fill tiles badly and other instructions than those of matrices are
not modeled; the operator has many of the latter. Two totals:

- **eager**: each pass is a kernel of its own.
- **fused**: element-wise work (ReLU, additions, concatenation, casts, both passes of batch norm) is done where it is
  read, as a good compiler does. Stored are only the inputs and results of convolutions, operator, pooling, classifier
  and update, sums, and what more than one pass reads. The kernel that stores an element-wise result does the first
  element-wise pass over it as well. Statistics still come before normalizing, so that batch norm reads its input twice.
  Not assumed: convolutions that sum statistics or normalize what they read, ReLU's mask computed again from batch
  norm's input, an operator fused with the convolution behind it, batch norm folded into weights for inference.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from bench.gpu.measure import read
from bench.tables import Row, find, number
from corrnet_models import create_model

NETWORKS = ("r2d26", "r2plus1d26", "corrnet26", "corrnet50", "corrnet101")
NUM_FRAMES, RESOLUTION, NUM_CLASSES = 32, 224, 400
RECORD = Path(__file__).parents[1] / "results" / "gpu" / "h100-2026-11-26"

_aten = torch.ops.aten
_KINDS = {
    "convolution": (_aten.convolution, _aten.convolution_backward),
    "batch norm": (_aten.native_batch_norm, _aten.native_batch_norm_backward),
    "ReLU": (_aten.relu, _aten.relu_, _aten.threshold_backward),
    "addition": (_aten.add, _aten.add_),
    "concatenation": (_aten.cat,),
    "pooling": (_aten.mean, _aten.div, _aten.max_pool3d_with_indices, _aten.max_pool3d_with_indices_backward),
    "correlation": (torch.ops.corr_ops.correlation, torch.ops.corr_ops.correlation_backward),
    "classifier": (_aten.addmm, _aten.mm),
    "cast": (_aten._to_copy,),
    "update": (_aten._fused_sgd_,),
}
_KIND = {operation: kind for kind, operations in _KINDS.items() for operation in operations}
_ELEMENTWISE = ("batch norm", "ReLU", "addition", "concatenation", "cast")
_Value = tuple[int, int]  # a storage, and how often it had been written to


@dataclass(frozen=True)
class Rates:
    """What a machine reaches.

    Attributes:
        bytes: Bytes read and written a second by a large copy.
        flops: FLOPs a second of a large 16-bit matrix product.
    """

    bytes: float
    flops: float


@dataclass(frozen=True)
class Kernel:
    """Work that is done in one go.

    Attributes:
        layer: Path of the module.
        kind: What it computes, see `_KINDS`; "other" for the rest.
        direction: "forward", "backward" or "update".
        bytes: Bytes read and written.
        flops: FLOPs.
    """

    layer: str
    kind: str
    direction: str
    bytes: int
    flops: int

    def seconds(self, rates: Rates) -> float:
        """Return the time on the roofline."""
        return max(self.bytes / rates.bytes, self.flops / rates.flops)

    @property
    def part(self) -> str:
        """The stage of the network, its correlation blocks apart."""
        names = self.layer.split(".")
        if names[0] == "backbone":
            is_correlation = any(name.startswith("corr") for name in names[2:])
            return f"{names[1]}, correlation" if is_correlation else names[1]
        return "update" if self.direction == "update" else "head and loss"


@dataclass
class _Pass:
    """Tensors that an operation goes through once, with their bytes."""

    layer: str
    kind: str
    direction: str
    reads: dict[_Value, int]
    writes: dict[_Value, int]
    flops: int = 0
    is_sum: bool = False
    sources: dict[_Value, int] = field(default_factory=dict)

    @property
    def is_elementwise(self) -> bool:
        return self.kind in _ELEMENTWISE

    def kernel(self, num_bytes: int) -> Kernel:
        return Kernel(self.layer, self.kind, self.direction, num_bytes, self.flops)


class Trace(TorchDispatchMode):
    """Writes down the passes of what runs inside of it, on fake tensors or real ones."""

    def __init__(self) -> None:
        super().__init__()
        self._passes: list[_Pass] = []
        self._kept: list[torch.UntypedStorage] = []  # one that is freed would lend its address to another
        self._writes: dict[int, int] = {}
        self._layers: dict[tuple[str, _Value], str] = {}
        self._modules = ModuleTracker()

    def __enter__(self) -> "Trace":
        self._modules.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._modules.__exit__(*error)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and write down its passes."""
        kwargs = kwargs or {}
        inputs = self._sizes((args, kwargs))
        out = operation(*args, **kwargs)
        if operation.namespace in ("prim", "profiler") or _moves_nothing(operation):
            return out
        kind = _KIND.get(operation.overloadpacket, "other")
        changed = [
            arg for arg, info in zip(args, operation._schema.arguments, strict=False) if _is_written(info)
        ]
        if kind == "update":  # gradients count as changed, but are so only where they are scaled
            changed = [args[0], args[2]]
        for tensor in _tensors(changed):
            self._writes[_storage(tensor)] = self._writes.get(_storage(tensor), 0) + 1
        outputs = self._sizes(changed) if changed else self._sizes(out)
        formula = flop_registry.get(operation.overloadpacket)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        layer, direction = self._place(kind, inputs, outputs)
        for reads, writes, share, is_sum in self._split(operation, args, out, inputs, outputs):
            flops_here = round(flops * share)
            self._passes.append(_Pass(layer, kind, direction, reads, writes, flops_here, is_sum))
        return out

    def eager(self) -> list[Kernel]:
        """Return a kernel for each pass."""
        return [one.kernel(sum(one.reads.values()) + sum(one.writes.values())) for one in self._passes]

    def fused(self) -> list[Kernel]:
        """Return the kernels that are left when element-wise passes are computed where they are read."""
        makers = {value: one for one in self._passes for value in one.writes}
        readers: dict[_Value, list[_Pass]] = {}
        for one in self._passes:
            for value in one.reads:
                readers.setdefault(value, []).append(one)

        def is_stored(value: _Value) -> bool:
            maker, uses = makers.get(value), readers.get(value, [])
            if maker is None or not maker.is_elementwise or maker.is_sum:
                return True
            return len(uses) != 1 or not uses[0].is_elementwise

        def is_at_hand(value: _Value, one: _Pass) -> bool:
            maker = makers.get(value)
            is_first = readers[value][0] is one
            return is_first and maker is not None and maker.is_elementwise and not maker.is_sum

        kernels = []
        for one in self._passes:
            if not one.is_elementwise:
                kernels.append(one.kernel(sum(one.reads.values()) + sum(one.writes.values())))
                continue
            stored = sum(size for value, size in one.writes.items() if is_stored(value))
            for value, size in one.reads.items():
                if not is_stored(value):
                    one.sources |= makers[value].sources
                elif not (stored and is_at_hand(value, one)):
                    one.sources[value] = size
            if stored:
                kernels.append(one.kernel(sum(one.sources.values()) + stored))
        return kernels

    def _value(self, tensor: Tensor) -> _Value:
        self._kept.append(tensor.untyped_storage())
        return _storage(tensor), self._writes.get(_storage(tensor), 0)

    def _sizes(self, tree: Any) -> dict[_Value, int]:
        """Return the bytes of each tensor; those of an expanded one are counted once."""
        return {self._value(tensor): _num_bytes(tensor) for tensor in _tensors(tree)}

    def _place(self, kind: str, inputs: dict[_Value, int], outputs: dict[_Value, int]) -> tuple[str, str]:
        """Return layer and direction; backward, the layer is that of the same kind which had the same tensor."""
        if kind == "update":
            return "", "update"
        if not self._modules.is_bw:
            path = max(self._modules.parents - {"Global"}, key=len, default="")
            layer = path.partition(".")[2]  # without the name of the outermost class
            for value in (*inputs, *outputs):
                self._layers[kind, value] = layer
            return layer, "forward"
        known = [self._layers[kind, value] for value in reversed(inputs) if (kind, value) in self._layers]
        before = self._passes[-1].layer if self._passes else ""
        return known[0] if known else before, "backward"

    def _split(
        self,
        operation: Any,
        args: tuple[Any, ...],
        out: Any,
        inputs: dict[_Value, int],
        outputs: dict[_Value, int],
    ) -> list[tuple[dict[_Value, int], dict[_Value, int], float, bool]]:
        """Return what each pass reads and writes, its share of the FLOPs, and whether it sums over a batch."""
        sizes, packet = self._sizes, operation.overloadpacket
        if packet is _aten.native_batch_norm and args[5]:
            x, weight, bias, running_mean, running_var = args[:5]
            running, sums = [running_mean, running_var], list(out[1:])
            return [
                (sizes([x, running]), sizes([sums, running]), 0, True),
                (sizes([x, weight, bias, sums]), sizes(out[0]), 0, False),
            ]
        if packet is _aten.native_batch_norm_backward:
            grad, x, weight, _, _, mean, deviation = args[:7]
            sums = list(out[1:])
            return [
                (sizes([grad, x, mean, deviation]), sizes(sums), 0, True),
                (sizes([grad, x, weight, mean, deviation, sums]), sizes(out[0]), 0, False),
            ]
        if packet is _aten.convolution_backward:
            grad, x, weight = args[:3]
            passes = [(sizes([grad, weight]), sizes(out[0])), (sizes([grad, x]), sizes(out[1:]))]
            wanted = [one for one, is_wanted in zip(passes, args[-1], strict=False) if is_wanted]
            return [(*one, 1 / len(wanted), False) for one in wanted]
        if packet is torch.ops.corr_ops.correlation_backward:
            grad, base, search, weight = args[:4]
            frames = (sizes([grad, base, search, weight]), sizes(out[:2]), 2 / 3, False)
            filters = (sizes([grad, base, search]), sizes(out[2]), 1 / 3, False)
            return [frames, filters]
        return [(inputs, outputs, 1, False)]


def _moves_nothing(operation: Any) -> bool:
    """Return whether an operation gives a view or memory that nothing is written to."""
    returns = operation._schema.returns
    is_view = any(info.alias_info is not None and not info.alias_info.is_write for info in returns)
    return is_view or "empty" in operation.overloadpacket.__name__


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _num_bytes(tensor: Tensor) -> int:
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(side for side, stride in sides if stride) * tensor.element_size()


def rates(network: Sequence[Row]) -> Rates:
    """Return the rates that a machine reached.

    Args:
        network: Rows of stage `network`.
    """
    row = find(network, table="rates")
    return Rates(1e9 * row["copy_gb_s"], 1e12 * row["matrix_tflops"])


def trace_network(name: str, batch: int, *, training: bool) -> Trace:
    """Return a step of a network: training with the update, or inference.

    Args:
        name: Name of the network.
        batch: Clips of 32 frames of 224x224.
        training: Train, in place of inferring.
    """
    with FakeTensorMode():
        model = create_model(name, num_frames=NUM_FRAMES, num_classes=NUM_CLASSES).train(training)
        clips = torch.empty(batch, 3, NUM_FRAMES, RESOLUTION, RESOLUTION)
        labels = torch.zeros(batch, dtype=torch.long)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(clips).float(), labels)
            loss.backward()
            optimizer.step()

        def infer() -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                model(clips)

        if training:
            step()  # which makes the momentum
        with Trace() as trace:
            (step if training else infer)()
    return trace


def trace_layer(
    make: Callable[[], nn.Module], shape: Sequence[int], *, backward: bool, half: bool = True
) -> Trace:
    """Return the passes of a layer in training, on 16-bit input, as stage `network` measures it.

    Args:
        make: Makes the layer.
        shape: Shape of its input.
        backward: Whether the gradients of input and parameters follow.
        half: Whether its parameters are in 16 bit too.
    """
    with FakeTensorMode():
        layer = make()
        for parameter in layer.parameters() if half else ():
            parameter.data = parameter.data.bfloat16()
        x = torch.empty(*shape, dtype=torch.bfloat16, requires_grad=True)
        grad = torch.empty_like(layer(x)) if backward else None
        with Trace() as trace, torch.set_grad_enabled(backward):
            y = layer(x)
            if backward:
                y.backward(grad)
    return trace


def milliseconds(kernels: Sequence[Kernel], rates: Rates) -> float:
    """Return the time of kernels one after the other."""
    return 1e3 * sum(kernel.seconds(rates) for kernel in kernels)


def totals(batch: int, machine: Rates) -> list[dict[str, Any]]:
    """Return the columns `model`, `direction`, `flops`, and bytes and milliseconds of both totals.

    Args:
        batch: Clips.
        machine: Rates of the machine.
    """
    found = []
    for name in NETWORKS:
        for direction in ("training", "inference"):
            trace = trace_network(name, batch, training=direction == "training")
            eager, fused = trace.eager(), trace.fused()
            found.append(
                {
                    "model": name,
                    "direction": direction,
                    "flops": sum(kernel.flops for kernel in eager),
                    "eager_bytes": sum(kernel.bytes for kernel in eager),
                    "fused_bytes": sum(kernel.bytes for kernel in fused),
                    "eager_ms": milliseconds(eager, machine),
                    "fused_ms": milliseconds(fused, machine),
                }
            )
    return found


def overview(batch: int, machine: Rates) -> str:
    """Return the table of the five networks."""
    body = []
    for row in totals(batch, machine):
        figures = [row["flops"] / 1e12, row["eager_bytes"] / 1e9, row["fused_bytes"] / 1e9]
        figures += [row["eager_ms"], row["fused_ms"]]
        body.append([row["model"], row["direction"], *map(number, figures)])
    header = ["network", "direction", "TFLOP", "eager GB", "fused GB", "eager ms", "fused ms"]
    return _aligned([header, *body])


def parts(name: str, batch: int, machine: Rates, *, layers: bool = False) -> str:
    """Return tables of a network: a row for each stage and correlation block, or for each layer.

    Args:
        name: Name of the network.
        batch: Clips.
        machine: Rates of the machine.
        layers: A row for each layer; what is fused counts where its result is stored.
    """
    tables = []
    for title in ("forward", "backward", "inference"):
        trace = trace_network(name, batch, training=title != "inference")
        eager, fused = (
            [one for one in kernels if (one.direction == "forward") == (title != "backward")]
            for kernels in (trace.eager(), trace.fused())
        )
        rows: dict[str, tuple[list[Kernel], list[Kernel]]] = {}
        for way, kernels in enumerate((eager, fused)):
            for kernel in kernels:
                rows.setdefault(_row(kernel) if layers else kernel.part, ([], []))[way].append(kernel)
        rows["all"] = (eager, fused)
        body = []
        for row, (first, second) in rows.items():
            figures = [sum(one.flops for one in first) / 1e9, sum(one.bytes for one in first) / 1e9]
            figures += [1e3 * milliseconds(kernels, machine) for kernels in (first, second)]
            body.append([row, *map(number, figures)])
        tables.append(_aligned([[title, "GFLOP", "eager GB", "eager us", "fused us"], *body]))
    return "\n\n".join(tables)


def _row(kernel: Kernel) -> str:
    return kernel.layer.removeprefix("backbone.") or kernel.part


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with names on the left and figures on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_name = [not column[1][0].isdigit() for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_name, strict=True)
        )
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the totals of the networks, or the parts of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="clips of 32 frames of 224x224 (default: 8)")
    parser.add_argument("--network", choices=NETWORKS, help="show the parts of one network")
    parser.add_argument("--layers", action="store_true", help="show each of its layers")
    parser.add_argument("--rates", type=Path, default=RECORD, help="folder with network.jsonl of a machine")
    chosen = parser.parse_args(arguments)
    if chosen.layers and not chosen.network:
        parser.error("--layers shows those of one network; name it with --network")
    record = chosen.rates / "network.jsonl"
    if not record.is_file():
        parser.error(f"{record} does not exist; stage network writes it")
    machine = rates(read(record))
    print(f"{chosen.batch} clips; {machine.bytes / 1e9:.0f} GB/s, {machine.flops / 1e12:.0f} TFLOP/s\n")
    if chosen.network:
        print(parts(chosen.network, chosen.batch, machine, layers=chosen.layers))
    else:
        print(overview(chosen.batch, machine))


if __name__ == "__main__":
    main()
