"""What `python -m pylayers check` and `bench` know of every op."""

from . import centered, halve_until, linear, rms_norm, swiglu
from .harness import Benchmark, ModuleBenchmark

BENCHMARKS: tuple[Benchmark, ...] = (
    rms_norm.BENCHMARKS + swiglu.BENCHMARKS + linear.BENCHMARKS + centered.BENCHMARKS + halve_until.BENCHMARKS
)
MODULES: tuple[ModuleBenchmark, ...] = (
    rms_norm.MODULES + swiglu.MODULES + linear.MODULES + centered.MODULES + halve_until.MODULES
)
