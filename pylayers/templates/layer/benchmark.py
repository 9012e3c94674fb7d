"""scaled_tanh against plain PyTorch: `python benchmark.py`. Variants take turns, so that whatever disturbs the machine disturbs all."""

import functools

import torch
from pylayers.benchmarks.timing import Variant, wall_times

import pylayers
from scaled_tanh import scaled_tanh

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [(1, 64), (128, 1024), (2048, 4096)]


def eager(input, weight, bias):
    return weight * torch.tanh(input) + bias


def forward_and_backward(function, tensors, grad):
    return torch.autograd.grad(function(*tensors), tensors, grad)


def measure(rows: int, dim: int, dtype: torch.dtype) -> None:
    tensors = [torch.randn(size, device=DEVICE, dtype=dtype, requires_grad=True) for size in ((rows, dim), (dim,), (dim,))]
    grad = torch.randn(rows, dim, device=DEVICE, dtype=dtype)
    competitors = {"eager": Variant("eager", "eager", functools.partial(forward_and_backward, eager, tensors, grad))}
    for one in pylayers.backends().values():
        if DEVICE.type in one.devices and one.timed and one.name != "reference":
            call = functools.partial(forward_and_backward, scaled_tanh, tensors, grad)
            competitors[one.name] = Variant(one.name, "ours", call, functools.partial(pylayers.backend, one.name))
    times = wall_times(list(competitors.values()), DEVICE)
    told = ", ".join(f"{name} {1e6 * time.median:.1f} µs ({time.median / times['eager'].median:.2f})" for name, time in times.items())
    print(f"{rows}×{dim} {str(dtype).removeprefix('torch.')}: {told}")


if __name__ == "__main__":
    print(f"forward + backward on {DEVICE}, median and share of eager's time")
    for size in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            measure(*size, dtype)
