"""What training asks of the C library."""

from __future__ import annotations

import subprocess
import sys

ROUNDS, CELLS = 20, 10_000_000
PAGES = CELLS * 4 // 4096  # of one tensor
PROGRAM = """
import resource, sys, torch
from model.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(2):  # the first time the heap grows to its size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(int(sys.argv[2])):
        torch.ones(int(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the kernel had to give while large tensors came and went."""
    words = [sys.executable, "-c", PROGRAM, how, str(ROUNDS), str(CELLS)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_the_memory_of_a_freed_tensor_is_used_again_instead_of_coming_anew() -> None:
    assert faults("kept") < PAGES
    assert faults("given back") > 10 * PAGES, "the C library keeps it by itself: drop keep_memory"
