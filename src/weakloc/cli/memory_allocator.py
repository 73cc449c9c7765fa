"""What the C library does with freed memory, for commands that run one network again and again."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# From malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM = 2**31 - 1
_MMAP_THRESHOLDS = (2**30, 2**25)  # older versions take no more than 32 MiB


def keep_freed_memory() -> bool:
    """Lets glibc keep the memory of feature maps instead of giving it back after every layer.

    The system would hand it out again page by page, each page cleared first: on a CPU a tenth to
    a third of the time of a network. The process then stays as large as it once was, which is why
    a library must not do this; a command may. False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for threshold in _MMAP_THRESHOLDS:
            if set_option(_MMAP_THRESHOLD, threshold):
                return bool(set_option(_TRIM_THRESHOLD, _LARGEST_TRIM))
    return False
