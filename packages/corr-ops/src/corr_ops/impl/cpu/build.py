"""Compiles the CPU kernels: when the package is built, or by hand with `python -m corr_ops.impl.cpu.build`.

Nothing but the standard library is imported here, since a build environment has nothing else.
"""

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

NATIVE = Path(__file__).with_name("native")
LIBRARY = Path(__file__).with_name("_correlation.so")

# A product and a sum become one instruction where there is one; copies of short rows stay loops.
FLAGS = ("-std=c11", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra")
GCC_FLAGS = ("-fno-tree-loop-distribute-patterns",)


class Variant(NamedTuple):
    """An instruction set for which the kernels are compiled."""

    name: str
    vector_bytes: int
    registers: int
    flags: tuple[str, ...] = ()


X86 = (
    Variant(
        "avx512",
        64,
        32,
        ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"),
    ),
    Variant("avx2", 32, 16, ("-mavx2", "-mfma")),
    Variant("baseline", 16, 16),
)
OTHERS = (Variant("baseline", 16, 32),)


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message says why."""


def find_compiler() -> list[str]:
    """Return the command of a C compiler: the variable CC, or what is installed.

    Raises:
        BuildError: If there is none.
    """
    if os.name == "nt":
        raise BuildError("the kernels need GCC or Clang on Linux or macOS")
    named = os.environ.get("CC")
    for command in [named] if named else ["cc", "gcc", "clang"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words
    raise BuildError(f"no C compiler found ({named or 'cc, gcc, clang'})")


def fingerprint() -> str:
    """Return what tells these C sources from others; a library carries that of its own."""
    sources = sorted(path for path in NATIVE.iterdir() if path.suffix in (".c", ".h", ".inc"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def build(target: Path = LIBRARY, *, extra_flags: Sequence[str] = ()) -> Path:
    """Compile the kernels for every instruction set of this kind of processor into one library.

    Args:
        target: The library to write; it appears complete or not at all.
        extra_flags: More flags for the compiler, after those of the variable CFLAGS.

    Returns:
        `target`.

    Raises:
        BuildError: If there is no C compiler or it fails; the message has its output.
    """
    compiler = find_compiler()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    common = [*FLAGS, *(["-DCORR_X86"] if is_x86 else [])]
    if "clang" not in _run([*compiler, "--version"]).lower():
        common += GCC_FLAGS
    common += [*shlex.split(os.environ.get("CFLAGS", "")), *extra_flags]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        objects = [Path(folder, "correlation.o")]
        source = [
            f'-DCORR_SOURCES="{fingerprint()}"',
            "-c",
            str(NATIVE / "correlation.c"),
            "-o",
            str(objects[0]),
        ]
        commands = [[*compiler, *common, *source]]
        for variant in X86 if is_x86 else OTHERS:
            objects.append(Path(folder, f"{variant.name}.o"))
            defines = (
                f"-DVARIANT={variant.name}",
                f"-DVECTOR_BYTES={variant.vector_bytes}",
                f"-DREGISTERS={variant.registers}",
            )
            source = ["-c", str(NATIVE / "kernels.c"), "-o", str(objects[-1])]
            commands.append([*compiler, *common, *variant.flags, *defines, *source])
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, commands))
        linked = Path(folder, target.name)
        _run([*compiler, *common, "-shared", *map(str, objects), "-o", str(linked)])
        linked.replace(target)
    return target


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{shlex.join(command)} failed:\n{result.stderr}")
    return result.stdout


def main() -> None:
    """Build the library in place, or where asked."""
    parser = argparse.ArgumentParser(description="Compile the CPU kernels of corr_ops.")
    parser.add_argument(
        "--output", type=Path, default=LIBRARY, help="library to write (default: in the package)"
    )
    arguments = parser.parse_args()
    try:
        print(build(arguments.output))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
