"""Variables of a module in host memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .ptx import Module

ALIGNMENT = 256


@dataclass
class Variables:
    """Keeps the memory of a module's variables."""

    spans: list[tuple[int, int, bool]] = field(default_factory=list)  # address, bytes, writable
    memory: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


def place_variables(module: Module) -> tuple[Variables, dict[str, int]]:
    """Memory with the initial values of all .global and .const variables, and the address of each."""
    placed, offset = {}, 0
    for variable in module.variables:
        if variable.space in ("global", "const") and not variable.extern:
            offset = -(-offset // max(variable.align, 16)) * max(variable.align, 16)
            placed[variable.name] = variable, offset
            offset += variable.size
    memory = np.zeros(offset + ALIGNMENT, np.uint8)
    base = -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT
    addresses = {name: base + offset for name, (_, offset) in placed.items()}
    result = Variables(memory=memory)
    for name, (variable, _) in placed.items():
        _write(memory, variable, addresses)
        result.spans.append((addresses[name], variable.size, variable.space == "global"))
    return result, addresses


def _write(memory, variable, addresses) -> None:
    at = addresses[variable.name] - memory.ctypes.data
    if variable.initializer:
        memory[at : at + variable.size] = np.frombuffer(variable.initializer, np.uint8)
    for offset, symbol, addend in variable.references:
        if symbol in addresses:  # not functions: they cannot be called by address
            memory[at + offset : at + offset + 8].view(np.uint64)[0] = addresses[symbol] + addend
