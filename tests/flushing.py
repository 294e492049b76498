"""Denormal numbers, those below 2.2e-308, on and off in this thread, as libraries made with -ffast-math leave them."""

import contextlib
import ctypes
import functools
import mmap
import platform

import numpy as np

FLUSH = 0x8040  # flush to zero, and denormals are zero: bits 15 and 6 of x86's MXCSR


@functools.cache
def _instruction(code: bytes):
    """A function of one pointer made of these bytes of x86-64 machine code; None on another machine."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(mmap, "PROT_EXEC"):
        return None
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    call.memory = memory  # as long as the function lives
    return call


def available() -> bool:
    """Whether `flushed` works here."""
    try:
        return _instruction(b"\x0f\xae\x1f\xc3") is not None
    except OSError:  # a system without memory that may be run
        return False


@contextlib.contextmanager
def flushed(on: bool = True):
    """Inside, NumPy takes denormal numbers for 0 (`on`), or keeps them."""
    read, write = _instruction(b"\x0f\xae\x1f\xc3"), _instruction(b"\x0f\xae\x17\xc3")  # stmxcsr, ldmxcsr [rdi]; ret
    before = ctypes.c_uint32()
    read(ctypes.byref(before))
    write(ctypes.byref(ctypes.c_uint32(before.value | FLUSH if on else before.value & ~FLUSH)))
    try:
        assert (np.array([1e-310]) * np.array([1.0]) == 0).all() == on
        yield
    finally:
        write(ctypes.byref(before))
