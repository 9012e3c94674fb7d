"""What `python -m pylayers check` and `bench` know of every op."""

from . import (
    add_layer_norm,
    add_rms_norm,
    bilinear,
    centered,
    cross_entropy,
    dropout_add,
    gate,
    group_norm,
    halve_until,
    layer_norm,
    leading_fourier,
    linear,
    linear_cross_entropy,
    linear_kl_div,
    parallel,
    pointwise_loss,
    rms_norm,
    rotary,
    softmax,
    tensor_reduction,
)
from .harness import Benchmark, ModuleBenchmark

OPS = (
    rms_norm, layer_norm, add_rms_norm, add_layer_norm, group_norm, gate, softmax, cross_entropy, linear_cross_entropy, linear_kl_div, pointwise_loss, rotary, linear, parallel, bilinear,
    tensor_reduction, centered, halve_until, dropout_add, leading_fourier,
)  # fmt: skip

BENCHMARKS: tuple[Benchmark, ...] = sum((op.BENCHMARKS for op in OPS), ())
MODULES: tuple[ModuleBenchmark, ...] = sum((op.MODULES for op in OPS), ())
