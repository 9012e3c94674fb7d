"""What `python -m pylayers check` and `bench` know of every op."""

from . import bilinear, centered, halve_until, leading_fourier, linear, parallel, rms_norm, swiglu, tensor_reduction
from .harness import Benchmark, ModuleBenchmark

OPS = (rms_norm, swiglu, linear, parallel, bilinear, tensor_reduction, centered, halve_until, leading_fourier)

BENCHMARKS: tuple[Benchmark, ...] = sum((op.BENCHMARKS for op in OPS), ())
MODULES: tuple[ModuleBenchmark, ...] = sum((op.MODULES for op in OPS), ())
