"""The C library's heap, as far as large tensors are concerned."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGE = 2 * 2**20
_SPARE = 64 * 2**20


def return_large_blocks() -> None:
    """From now on a tensor of two megabytes or more is given back to the system at once when it is freed.

    By default glibc serves blocks of up to 32 MB from a heap in which freed ones cannot be used again for the next
    tensor, aligned as it must be: a step then holds about twice the memory of its tensors. Smaller blocks stay in the
    heap, which keeps what they leave free at its end: a loss that makes and frees them row by row would otherwise ask
    the system for the same pages again and again. Nothing is done where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _SPARE)
