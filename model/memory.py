"""Memory of large tensors, kept for the next ones."""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Let glibc keep what this process frees (mallopt(3)); another C library is left as it is.

    A step makes and frees the same large tensors again. By default each of them is given back to
    the kernel, and comes zeroed, page by page, the next time.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
