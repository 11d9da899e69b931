"""Scratch memory on CPU: kept from step to step instead of taken anew."""

import ctypes

import jax

# Options of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_scratch() -> None:
    """Lets the C library keep, for this process, what XLA's CPU backend frees and takes again with every call.

    Large blocks come from the system by default and go back to it, so that each call touches fresh pages: 18,000 page faults and a
    quarter of the time of a small network's step. Single blocks of 64 MB and more, the most that glibc gives a thread's own heap,
    may still come from the system. Nothing happens on accelerators, or where the C library is not glibc.
    """
    if jax.default_backend() != "cpu":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)
