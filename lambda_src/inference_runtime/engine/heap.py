"""Asks the system for large pages where a model is about to be loaded.

Loading packs the model's weights into new memory. A process gets that by one page fault for each 4 KiB: thousands,
which take a good part of a cold start. Pages of 2 MiB need a few dozen.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_size_t, c_void_p

RESERVED = 31 * 1024**2
"""Bytes of the heap that are marked: address space, which takes no memory before it is used."""

# Numbers of malloc.h (glibc) and of madvise(2).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_HUGE_PAGE = 14
_PAGE = 4096

# The largest block that glibc takes from the heap, and what of its end it keeps. Weights are packed into smaller ones;
# larger activations are given back at once, as ever.
_LARGEST_BLOCK = 8 * 1024**2
_KEPT = 8 * _LARGEST_BLOCK  # more than what is reserved, which would go back else


def prefer_huge_pages() -> None:
    """Let the heap have large pages, if the system has them and leaves the choice to the process.

    Where it does not, or where the C library is another than glibc, nothing changes.
    """
    try:
        library = CDLL(None)
        mallopt, malloc, free, madvise = library.mallopt, library.malloc, library.free, library.madvise
    except (AttributeError, OSError):
        return
    malloc.argtypes, malloc.restype = [c_size_t], c_void_p
    free.argtypes = [c_void_p]
    madvise.argtypes = [c_void_p, c_size_t, c_int]
    mallopt(_MMAP_THRESHOLD, RESERVED + _PAGE)  # or it would be a separate mapping
    mallopt(_TRIM_THRESHOLD, _KEPT)
    if start := malloc(RESERVED):
        aligned = -(-start // _PAGE) * _PAGE
        madvise(aligned, (start + RESERVED - aligned) // _PAGE * _PAGE, _HUGE_PAGE)
        free(start)  # it stays part of the heap, and is what the next blocks are taken from
    mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
