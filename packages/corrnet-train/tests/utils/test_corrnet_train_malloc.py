import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from corrnet_train.utils.malloc import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):  # until the heap has found its size
    page_faults()
print(page_faults())
"""


def page_faults_of_a_repeated_allocation(mode):
    result = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_page_faults():
    assert page_faults_of_a_repeated_allocation("kept") < 100
    assert page_faults_of_a_repeated_allocation("as usual") > 10 * 100
