"""Memory that processes keep on a CPU."""

import subprocess
import sys

import pytest

HELD = """
import torch
from midalign.device import LARGEST_KEPT, keep_freed_memory

def held(mib, count):
    tensors = [torch.ones(mib * 2**18) for _ in range(count)]
    del tensors
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages // 256  # MiB, in pages of 4 KiB

keep_freed_memory()
before = held(0, 1)
print(held(8, 32) - before, held(LARGEST_KEPT // 2**20 + 8, 8) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_except_that_of_large_tensors() -> None:
    ran = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    small, with_large = map(int, ran.stdout.split())
    assert small > 200  # 32 tensors of 8 MiB
    assert with_large < small + 50  # 8 tensors of 40 MiB were returned
