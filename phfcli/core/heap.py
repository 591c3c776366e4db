"""The C library's heap, as far as large tensors are concerned."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE = 2**20


def return_large_blocks() -> None:
    """From now on a tensor of a megabyte or more is given back to the system at once when it is freed.

    By default glibc serves blocks of up to 32 MB from a heap in which freed ones cannot be used again for the next
    tensor, aligned as it must be: a step then holds about twice the memory of its tensors. Nothing is done elsewhere.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
