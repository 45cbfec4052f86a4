"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from dbq import networks
from dbq.training.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
network = networks.build("resnet20", 10, "32x32")
images = torch.zeros(128, 3, 32, 32)
for step in range(5):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(images).sum().backward()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[bool, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], env=environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_a_step_has_few_page_faults():
    kept, few = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, many = faults("leave")
    assert few < many / 3, (few, many)
