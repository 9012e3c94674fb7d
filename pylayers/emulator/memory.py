"""The global memory that a kernel may use: what is outside, written without leave, or read before it was written is a fault."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from .engine import library

READABLE, WRITABLE, DEFINED = 1, 2, 4


def _numbers(values: Sequence[int]):
    return (ctypes.c_int64 * max(len(values), 1))(*values)


class GlobalMemory:
    """Tensors that were passed to a kernel, byte by byte."""

    def __init__(self):
        self._library = library()
        self._handle = self._library.emulator_memory()

    def __del__(self):
        if getattr(self, "_handle", None):
            self._library.emulator_free_memory(self._handle)

    @property
    def handle(self) -> int:
        return self._handle

    def add_view(
        self,
        address: int,
        element: int,
        sizes: Sequence[int],
        strides: Sequence[int],
        *,
        readable: bool = True,
        writable: bool = True,
        defined: bool = True,
        name: str = "",
    ) -> None:
        """A tensor: `element` bytes each, `strides` in bytes. Bytes that belong to several tensors may do what any of them may."""
        flags = READABLE * readable | WRITABLE * writable | DEFINED * defined
        self._library.emulator_add(
            self._handle, address, element, len(sizes), _numbers(sizes), _numbers(strides), flags, name.encode()
        )

    def add(self, address: int, nbytes: int, **how) -> None:
        """`nbytes` from `address` on."""
        self.add_view(address, 1, (nbytes,), (1,), **how)

    def undefined_in(self, address: int, element: int, sizes: Sequence[int], strides: Sequence[int]) -> int:
        """How many bytes of a tensor are still undefined."""
        return self._library.emulator_undefined(self._handle, address, element, len(sizes), _numbers(sizes), _numbers(strides))

    def undefined(self, address: int, nbytes: int) -> int:
        return self.undefined_in(address, 1, (nbytes,), (1,))

    def save(self) -> bytearray:
        """What kernels may write here, and which of it is defined."""
        saved = bytearray(self._library.emulator_save(self._handle, None))
        self._library.emulator_save(self._handle, _pointer(saved))
        return saved

    def restore(self, saved: bytearray) -> None:
        self._library.emulator_restore(self._handle, _pointer(saved), len(saved))


def _pointer(data: bytearray):
    return (ctypes.c_uint8 * len(data)).from_buffer(data) if data else None
