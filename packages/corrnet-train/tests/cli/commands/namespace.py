"""corrnet with a small file system mounted at a folder that it alone sees: FOLDER SIZE KEPT COMMAND...

What is in the file system at the end is copied to the folder KEPT, if that is not empty.
"""

import ctypes
import os
import subprocess
import sys

CLONE_NEWNS = 0x20000

if __name__ == "__main__":
    from corrnet_train.cli import main

    folder, size, kept, *sys.argv[1:] = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    for mount in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]):
        subprocess.run(["mount", *mount], check=True)
    try:
        main()
    finally:
        if kept:
            subprocess.run(["cp", "-a", os.path.join(folder, "."), kept], check=True)  # noqa: PTH118
