"""The kernels of instructions on the GPU of this machine, where there is one: the same PTX, through its driver."""

from __future__ import annotations

import ctypes
import json
from functools import cache
from math import inf, isnan
from pathlib import Path

import numpy as np
import torch
from number_formats import Format

NOT_OF_THIS_GPU = (218, 222)  # CUDA_ERROR_INVALID_PTX, CUDA_ERROR_UNSUPPORTED_PTX_VERSION

# Documented errors of approximate instructions (PTX ISA, section 9.7): relative, or absolute where the result is small.
ERRORS = {
    "div.approx.f32": 2**-22, "div.full.f32": 2**-22, "rcp.approx.f32": 2**-23, "sqrt.approx.f32": 2**-22, "rsqrt.approx.f32": 2**-22,
    "ex2.approx.f32": 2**-22, "lg2.approx.f32": 2**-21, "sin.approx.f32": 2**-20, "cos.approx.f32": 2**-20, "tanh.approx.f32": 2**-10,
    "ex2.approx.f16": 2**-9, "tanh.approx.f16": 2**-10, "tanh.approx.bf16": 2**-7, "ex2.approx.bf16": 2**-7,
    "rsqrt.approx.f64": 2**-22, "rcp.approx.f64": 2**-20,
}  # fmt: skip

compared: dict[str, dict] = {}  # what was found, by instruction


def at_hand() -> bool:
    return torch.cuda.is_available()


@cache
def _driver() -> ctypes.CDLL:
    torch.zeros(1, device="cuda")  # makes the context that the driver's functions work in
    return ctypes.CDLL("libcuda.so.1")


def _call(function: str, *arguments) -> None:
    status = getattr(_driver(), function)(*arguments)
    assert status == 0, f"{function}: error {status} of the driver"


def launch(text: str, blocks: int, arrays: list[np.ndarray]) -> np.ndarray | None:
    """The first array as blocks of 32 threads leave it; None if this GPU has not all that the PTX asks for."""
    major, minor = torch.cuda.get_device_capability()
    text = text.replace("sm_100a", f"sm_{major}{minor}{'a' if major >= 9 else ''}")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    status = _driver().cuModuleLoadData(ctypes.byref(module), text.encode())
    if status in NOT_OF_THIS_GPU:
        return None
    assert status == 0, f"cuModuleLoadData: error {status} of the driver"
    _call("cuModuleGetFunction", ctypes.byref(function), module, b"test")
    tensors = [torch.from_numpy(array.view(np.uint8)).cuda() for array in arrays]
    addresses = [ctypes.c_uint64(tensor.data_ptr()) for tensor in tensors]
    parameters = (ctypes.c_void_p * len(addresses))(*(ctypes.addressof(address) for address in addresses))
    torch.cuda.synchronize()
    _call("cuLaunchKernel", function, blocks, 1, 1, 32, 1, 1, 0, None, parameters, None)
    torch.cuda.synchronize()
    _call("cuModuleUnload", module)
    return tensors[0].cpu().numpy().view(arrays[0].dtype)


def _distance(format: Format, ours: int, theirs: int) -> float:
    """0 for the same bits, or NaNs of double: they keep their payloads on a GPU, here the host's."""
    if ours == theirs:
        return 0.0
    a, b = format.decode(ours), format.decode(theirs)
    if not format.floating or isnan(a) or isnan(b):
        return 0.0 if format.name == "f64" and isnan(a) and isnan(b) else inf
    return 0.0 if abs(a - b) == 0 else abs(a - b) / max(abs(a), abs(b), 1.0)


def compare(body: str, text: str, format: Format, blocks: int, arrays: list[np.ndarray], emulated: np.ndarray) -> None:
    """Runs it on the GPU and notes what comes out; AssertionError if it is not what the emulator made of it."""
    found = launch(text, blocks, arrays)
    if found is None:
        compared[body] = {"refused": "not an instruction of this GPU"}
        return
    distances = [_distance(format, int(a), int(b)) for a, b in zip(emulated, found, strict=True)]
    compared[body] = {"values": len(distances), "different": sum(one > 0 for one in distances), "worst": max(distances)}
    opcode = body.split()[0].replace(".ftz", "").removesuffix("x2")
    allowed = ERRORS[opcode] if ".approx" in opcode or ".full" in opcode else 0.0
    assert max(distances) <= allowed, f"{body} on the GPU and on the emulator: {compared[body]}"


def write(path: Path) -> None:
    named = {"gpu": torch.cuda.get_device_name(), "instructions": dict(sorted(compared.items()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(named, indent=1) + "\n")
