"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from dbq.training.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
torch.ones(16 << 20)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16 << 20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[bool, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], env=environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_a_block_that_was_freed_is_used_again_without_page_faults():
    kept, few = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("leave")
    assert few < many / 4, (few, many)
