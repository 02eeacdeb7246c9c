"""Build hook: compiles the CPU kernels into the wheel, or leaves them out with a notice.

With the variable CORR_OPS_PURE=1 the wheel has no compiled part and serves every platform.
"""

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles for wheels and editable installs; source distributions hold the C files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        kernels = _load_build_module(Path(self.root, "src/corr_ops/impl/cpu/build.py"))
        kernels.LIBRARY.unlink(missing_ok=True)
        if self.target_name != "wheel":
            return
        if os.environ.get("CORR_OPS_PURE") == "1":
            self.app.display_info("CORR_OPS_PURE=1: the CPU kernels are left out")
            return
        try:
            kernels.build()
        except kernels.BuildError as error:
            self.app.display_warning(
                f"the CPU kernels are left out, the slower reference serves CPUs: {error}"
            )
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append("src/corr_ops/impl/cpu/_correlation.so")


def _load_build_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("corr_ops_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
