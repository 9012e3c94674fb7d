"""What `python -m pylayers check` and `bench` know of every op."""

from . import bilinear, centered, halve_until, leading_fourier, linear, parallel, rms_norm, swiglu, tensor_reduction
from .harness import Benchmark, ModuleBenchmark

OPS = (rms_norm, swiglu, linear, parallel, bilinear, tensor_reduction, centered, halve_until, leading_fourier)

BENCHMARKS: tuple[Benchmark, ...] = sum((op.BENCHMARKS for op in OPS), ())
MODULES: tuple[ModuleBenchmark, ...] = sum((op.MODULES for op in OPS), ())
from . import centered, halve_until, linear, rms_norm, swiglu
from .harness import Benchmark, ModuleBenchmark

BENCHMARKS: tuple[Benchmark, ...] = (
    rms_norm.BENCHMARKS + swiglu.BENCHMARKS + linear.BENCHMARKS + centered.BENCHMARKS + halve_until.BENCHMARKS
)
MODULES: tuple[ModuleBenchmark, ...] = (
    rms_norm.MODULES + swiglu.MODULES + linear.MODULES + centered.MODULES + halve_until.MODULES
)
