"""Giving memory back to the machine."""

import ctypes
import gc

_M_ARENA_MAX = -8  # glibc's malloc.h
_ARENAS = 2


def settle() -> None:
    """Few malloc arenas from now on, and what key derivation took (256 MiB) is given back.

    Worker threads come and go, and each new one would keep an arena of its own half full; that
    part does nothing where the C library is not glibc. What was made until now stays for good:
    the collector of cycles need not look at it again and again.
    """
    gc.collect()
    gc.freeze()
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(_ARENAS))
        libc.malloc_trim(ctypes.c_size_t(0))
    except (OSError, AttributeError):
        return
