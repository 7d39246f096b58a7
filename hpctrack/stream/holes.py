"""Holes: the space in the midst of a file is given back, where the file system can."""

#: fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 0x01 | 0x02


def punch(descriptor: int, offset: int, size: int) -> bool:
    """Free a range of a file (fallocate(2)); False where that can't be done."""
    import ctypes  # late: few journals grow so long

    try:
        libc = ctypes.CDLL(None)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(libc.fallocate(descriptor, _PUNCH_HOLE, offset, size) == 0)
    except (OSError, AttributeError):
        return False
