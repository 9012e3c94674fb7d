"""The leading half of the Fourier coefficients of each row."""

from __future__ import annotations

from functools import partial

import torch

import pylayers
from pylayers import functional, reference

from .harness import Benchmark, ModuleBenchmark, random
from .traffic import Traffic, ceil_div


def inputs(rows: int, dim: int, **kind):
    return (random(rows, dim, **kind),)


def eager(x: torch.Tensor, onesided: bool = False) -> torch.Tensor:
    # torch.fft knows no 16-bit numbers on a CPU, and few sizes of them on a GPU.
    y = torch.fft.rfft(x if x.dtype == torch.float64 else x.float())
    return y if onesided else y[..., : (x.shape[-1] + 1) // 2]


def flops(rows: int, dim: int) -> int:
    """Of a real transform by the usual count."""
    return 5 * rows * dim * dim.bit_length() // 2


def backward_traffic(backend: str, rows: int, dim: int, size: int) -> Traffic:
    """The half spectrum from the gradient; the transforms are the library's."""
    number = max(size, 4)  # 16-bit data is transformed in float32
    given, held = (dim + 1) // 2, dim // 2 + 1
    # Three rows of four do not start at a sector, so each store of a warp shares one with the next.
    shared = (rows - ceil_div(rows, 4)) * ceil_div(held, 32) * 32
    return Traffic(load=2 * rows * given * number, store=2 * rows * held * number, halves=shared)


def declare(onesided: bool) -> Benchmark:
    return Benchmark(
        op="leading_fourier",
        title="leading_fourier onesided" if onesided else "leading_fourier",
        function=partial(functional.leading_fourier, onesided=onesided),
        reference=partial(reference.leading_fourier, onesided=onesided),
        eager=partial(eager, onesided=onesided),
        inputs=inputs,
        # n complex coefficients are as many numbers as the data; backward reads them and writes as many.
        elements=lambda rows, dim: (2 * rows * dim, 2 * rows * dim),
        flops=lambda rows, dim: (flops(rows, dim), flops(rows, dim)),
        # Onesided gradients start in the middle of sectors too, which is counted of stores alone.
        traffic={} if onesided else {"leading_fourier_backward": backward_traffic},
        model_size=lambda model, tokens: (tokens, model.dim),
        quick=False,
    )


BENCHMARKS = tuple(map(declare, (False, True)))


class Eager(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return eager(x)


MODULES = (
    ModuleBenchmark(op="leading_fourier", title="LeadingFourier()", ours=pylayers.LeadingFourier, eager=Eager),
)
