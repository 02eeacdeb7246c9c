"""Build hook: compiles the CPU kernels into the wheel, or leaves them out with a notice.

With the variable CORR_OPS_PURE=1 the wheel has no compiled part and serves every platform.
"""

import importlib.util
import os
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles for wheels and editable installs; source distributions hold the C files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected: in place for an editable install, else beside the sources."""
        if self.target_name != "wheel":
            return
        kernels = _load_build_module(Path(self.root, "src/corr_ops/impl/cpu/build.py"))
        if version == "editable":
            library: Path = kernels.LIBRARY
            library.unlink(missing_ok=True)
        else:
            self._folder = tempfile.TemporaryDirectory()
            library = Path(self._folder.name, kernels.LIBRARY.name)
        if os.environ.get("CORR_OPS_PURE") == "1":
            self.app.display_info("CORR_OPS_PURE=1: the CPU kernels are left out")
            return
        try:
            kernels.build(library)
        except kernels.BuildError as error:
            self.app.display_warning(
                f"the CPU kernels are left out, the slower reference serves CPUs: {error}"
            )
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        if version != "editable":
            build_data["force_include"][str(library)] = f"corr_ops/impl/cpu/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled, now that the wheel holds it."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _load_build_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("corr_ops_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
