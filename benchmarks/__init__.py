"""What `python -m pylayers check` and `bench` know of every op."""

from . import leading_fourier, linear, parallel, rms_norm, swiglu
from .harness import Benchmark, ModuleBenchmark

BENCHMARKS: tuple[Benchmark, ...] = rms_norm.BENCHMARKS + swiglu.BENCHMARKS + linear.BENCHMARKS
BENCHMARKS += parallel.BENCHMARKS + leading_fourier.BENCHMARKS
MODULES: tuple[ModuleBenchmark, ...] = rms_norm.MODULES + swiglu.MODULES + linear.MODULES
MODULES += parallel.MODULES + leading_fourier.MODULES
