"""Rows that are too long for a block: held by a cluster where the GPU has clusters, else read twice."""

import cases
import needs
import pytest
import torch
from harness import matches_float64, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.benchmarks import BENCHMARKS, counting

import pylayers

pytestmark = needs.nvcc

CALLS = {name: cases.CALLS[name][:2] for name in ("rms_norm", "layer_norm", "add_rms_norm", "add_layer_norm", "softmax")}
CALLS["scaled_masked_softmax"] = cases.CALLS["scaled_masked_softmax"][:2]
CALLS["log_softmax"] = (lambda x: functional.log_softmax(x, -1)), (lambda x: reference.log_softmax(x, -1))
INPUTS = {"rms_norm": 1, "layer_norm": 1, "add_rms_norm": 2, "add_layer_norm": 2}  # matrices; the others have one and no vectors
WITHOUT_CLUSTERS = ("layer_norm", "softmax")  # norms share one way of reading twice, as softmaxes do
VECTORS = {"rms_norm": 1, "layer_norm": 2, "add_rms_norm": 1, "add_layer_norm": 2}


def inputs(name, rows, dim, dtype):
    matrices = [normal(rows, dim, dtype=dtype, seed=i) for i in range(INPUTS.get(name, 1))]
    return (*matrices, *(normal(dim, dtype=dtype, seed=5 + i) for i in range(VECTORS.get(name, 0))))


# Of 4 blocks; of 8 or 16, the last of which has less to do.
@pytest.mark.parametrize("dim,dtype", [(20000, torch.float32), (65544, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_wide_rows(name, dim, dtype):
    with pylayers.emulator.on("h200", order=(0, 1), backends=["cuda"]):
        matches_float64(*CALLS[name], inputs(name, 2, dim, dtype), "cuda")


@pytest.mark.parametrize("name", ["layer_norm", "log_softmax", "scaled_masked_softmax"])
def test_wide_rows_without_clusters(name):
    with pylayers.emulator.on("a100", backends=["cuda"], sources=WITHOUT_CLUSTERS):
        matches_float64(*CALLS[name], inputs(name, 2, 40008, torch.bfloat16), "cuda")


def test_longest_rows_of_softmax():
    with pylayers.emulator.on("h200", backends=["cuda"]):
        matches_float64(*CALLS["log_softmax"], inputs("softmax", 2, 262144, torch.float32), "cuda")


@pytest.mark.parametrize("title", ["layer_norm", "softmax"])
def test_a_cluster_reads_its_row_once(title):
    benchmark, size, dtype = next(one for one in BENCHMARKS if one.title == title), (4, 65536), torch.bfloat16
    clusters = counting.count(benchmark, size, dtype, "cuda").counts
    chunks = counting.count(benchmark, size, dtype, "cuda", "a100", sources=WITHOUT_CLUSTERS).counts
    for kernel in clusters:
        stated = benchmark.traffic[kernel]("cuda", *size, dtype.itemsize).load
        assert clusters[kernel].load_bytes == pytest.approx(stated, rel=0.05)
        assert chunks[kernel].load_bytes > 1.1 * stated
