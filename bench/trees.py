"""Installations of the packages as a commit or the working tree has them, built from their own files."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def git(*arguments: str, cwd: Path = ROOT) -> str:
    """Return what git prints, without spaces at the ends."""
    return subprocess.run(
        ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_of(ref: str, *, cwd: Path = ROOT) -> str:
    """Return the full name of a commit.

    Raises:
        ValueError: There is none of that name.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", cwd=cwd)
    except subprocess.CalledProcessError:
        raise ValueError(f"no commit {ref!r} in {cwd}") from None


def clean_commit() -> str:
    """Return the full name of the commit that the packages are at.

    Raises:
        ValueError: They differ from it.
    """
    if changed := git("status", "--porcelain", "--", "packages"):
        raise ValueError(
            f"the packages have changes that are in no commit, so no row could name them:\n{changed}"
        )
    return commit_of("HEAD")


@contextmanager
def tree_of(ref: str | None) -> Iterator[Path]:
    """Enter a block with a folder that holds the files of a commit; None is the working tree itself."""
    if ref is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--detach", "--force", str(tree), commit_of(ref))
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


LIBRARY = Path("corr_ops", "impl", "cpu", "_correlation.so")


@contextmanager
def installation_of(tree: Path, *, compiled: Path | None = None) -> Iterator[Path]:
    """Enter a block with a folder into which the packages of a tree are installed, their kernels compiled.

    Args:
        tree: Files of the repository.
        compiled: A library of kernels with the same sources, so that they need not be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        target = Path(folder, "installation")
        sources = Path(folder, "sources")  # builds leave nothing in the tree
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "build", "dist", "tests")
        packages = [
            shutil.copytree(package, sources / package.name, ignore=ignored)
            for package in sorted(tree.glob("packages/*"))
            if (package / "pyproject.toml").exists()
        ]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--disable-pip-version-check", "--no-compile", "--target", str(target)]
        environment = os.environ | ({} if compiled is None else {"CORR_OPS_PURE": "1"})
        subprocess.run([*command, *map(str, packages)], check=True, env=environment)
        if compiled is not None:
            shutil.copy2(compiled, target / LIBRARY)
        yield target
