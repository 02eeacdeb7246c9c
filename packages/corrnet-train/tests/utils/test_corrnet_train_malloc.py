import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from corrnet_train.utils.malloc import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(160 << 20)  # memory of the C library, as that of tensors, and more than it keeps in reserve
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
for _ in range(3):  # until the heap has found its size
    page_faults()
print(page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_page_faults():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100  # 40,960 pages are written
