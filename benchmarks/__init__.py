"""What `python -m pylayers check` and `bench` know of every op."""

from . import bilinear, linear, rms_norm, swiglu, tensor_reduction
from .harness import Benchmark, ModuleBenchmark

BENCHMARKS: tuple[Benchmark, ...] = rms_norm.BENCHMARKS + swiglu.BENCHMARKS + linear.BENCHMARKS + bilinear.BENCHMARKS + tensor_reduction.BENCHMARKS
MODULES: tuple[ModuleBenchmark, ...] = rms_norm.MODULES + swiglu.MODULES + linear.MODULES + bilinear.MODULES + tensor_reduction.MODULES
from . import leading_fourier, linear, parallel, rms_norm, swiglu
from .harness import Benchmark, ModuleBenchmark

BENCHMARKS: tuple[Benchmark, ...] = rms_norm.BENCHMARKS + swiglu.BENCHMARKS + linear.BENCHMARKS
BENCHMARKS += parallel.BENCHMARKS + leading_fourier.BENCHMARKS
MODULES: tuple[ModuleBenchmark, ...] = rms_norm.MODULES + swiglu.MODULES + linear.MODULES
MODULES += parallel.MODULES + leading_fourier.MODULES
