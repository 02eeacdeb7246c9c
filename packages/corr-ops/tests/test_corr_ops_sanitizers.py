"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, over the shapes of the other tests.

PyTorch's memory is watched too, since the sanitizer's allocator is loaded first. Between the buffers of a task
the kernels leave stretches that must not be touched.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from corr_ops.impl.cpu import build, library

TESTS = Path(__file__).parent
# Without optimization no access is left out, and compiling takes a fifth of the time of -O1. AddressSanitizer sees by
# itself what is read through a null pointer.
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all", "-g1", "-O0")
# All variants are of the same C. Those whose instructions this processor lacks are compiled without their flags, so
# that vectors of each width are tested on all; registers that it lacks cannot be named. Undefined behavior, which takes
# most of the compiler's time, is looked for in the widest alone, whose vectors ask for the most alignment.
HERE = library.instruction_sets() if library.path().exists() else ()
X86 = tuple(
    variant._replace(
        flags=(
            *(variant.flags if variant.name in HERE else ["-UCORR_X86"]),
            *(["-fno-sanitize=undefined"] if variant.vector_bytes < 64 else []),
        )
    )
    for variant in build.X86
)
OTHERS = {"as-shipped": build.OTHERS, "vectors-of-64-bytes": (build.Variant("baseline", 64, 32),)}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

RUN = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_corr_ops_cpu import *

torch.set_num_threads(2)
library.instruction_sets = lambda: {{name: index for index, name in enumerate({names})}}
checked = 0
# Every case with every dtype, and with one layout and one kind of call in turn: between them with all.
turns = itertools.cycle(itertools.product(["dense", "channels-last", "sliced"], LAGS.items()))
for case in [*cases(), *STRESS]:
    for dtype in DTYPES:
        layout, (kind, lag) = next(turns)
        view = LAYOUTS.get(layout, lambda x: x)
        base, search, weight = make_factors(case, kind, dtype=dtype)
        factors = [view(base), None if search is None else view(search), weight]
        grad = view(make_grad(case, dtype=dtype))
        theirs = run_implementation(reference, factors, grad, case, lag)
        for name in library.instruction_sets():
            library.instruction_set = lambda: name
            ours = run_implementation(cpu, factors, grad, case, lag)
            for result, expected in zip(ours, theirs, strict=True):
                scale = expected.abs().max().item() if expected.numel() else 1.0
                tolerance = 64 * torch.finfo(dtype).eps
                torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance * scale)
            checked += 1
print("checked", checked)
"""


def runtime(name: str) -> str:
    """Return the path of a sanitizer's runtime, or skip."""
    try:
        compiler = build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    found = subprocess.run(
        [*compiler, f"-print-file-name={name}"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{compiler[0]} has no {name}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("others", [()] if IS_X86 else OTHERS.values(), ids=["x86"] if IS_X86 else OTHERS)
def test_kernels_under_sanitizers(
    others: tuple[build.Variant, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preload = runtime("libasan.so")
    monkeypatch.setattr(build, "X86", X86)
    monkeypatch.setattr(build, "OTHERS", others)
    try:
        sanitized = build.build(tmp_path / "sanitized.so", extra_flags=FLAGS)
    except build.BuildError as error:
        pytest.skip(f"the sanitizers cannot be used here: {error}")
    names = [variant.name for variant in (X86 if IS_X86 else others)]
    result = subprocess.run(
        [sys.executable, "-c", RUN.format(tests=str(TESTS), names=names)],
        env={
            **os.environ,
            "CORR_OPS_LIBRARY": str(sanitized),
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-6000:]}"
    assert "checked" in result.stdout
