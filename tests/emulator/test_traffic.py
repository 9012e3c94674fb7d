"""Every kernel moves the bytes that its declaration in benchmarks/ states, and no more."""

from functools import cache

import needs
import pytest
import torch
from pylayers.benchmarks import BENCHMARKS, counted, counting
from pylayers.emulator import toolkit

import pylayers

SIZES = ((64, 4096), (40, 1024))
PRODUCT_SIZES = ((64, 256, 1024), (40, 128, 1024))
BILINEAR_SIZES = ((16, 256, 32), (12, 256, 48))  # its products are as large as those of its inputs, squared
TOLERANCE = 0.05

BY_TITLE = {one.title: one for one in BENCHMARKS}


def sizes(benchmark):
    if benchmark.op in ("bilinear", "tensor_reduction"):
        return BILINEAR_SIZES
    return PRODUCT_SIZES if benchmark.product else SIZES


# Each dtype at a size of its own: the statements are formulas in both.
CASES = [
    (one.title, size, dtype, backend)
    for one in BENCHMARKS
    for size, dtype in zip(sizes(one), counted.DTYPES)
    for backend in counted.BACKENDS
    if one.traffic and (one.title, backend) not in (("linear", "cuda"), ("parallel_linear", "cuda"))  # all cuBLAS: no kernel of ours
]


def name(title, size, dtype, backend):
    return f"{title}-{'x'.join(map(str, size))}-{str(dtype).removeprefix('torch.')}-{backend}"


def case(title, size, dtype, backend):
    return pytest.param(title, size, dtype, backend, id=name(title, size, dtype, backend))


@cache
def moved(title, size, dtype, backend):
    """Of each kernel: counts, the least that its calls must move, and what is stated."""
    if backend == "cuda":
        try:
            toolkit.find()
        except RuntimeError as error:
            pytest.skip(str(error))
    else:
        pytest.importorskip("triton")
    benchmark = BY_TITLE[title]
    found = counting.count(benchmark, size, dtype, backend)
    assert found.counts, "no kernel was launched"
    return {
        kernel: (counts, found.minimum[kernel], benchmark.traffic[kernel](backend, *size, dtype.itemsize))
        for kernel, counts in found.counts.items()
    }


def close(number, stated):
    return number == pytest.approx(stated, rel=TOLERANCE)


def loads(number, stated):
    return number <= (1 + TOLERANCE) * stated.load if stated.at_most else close(number, stated.load)


@pytest.mark.parametrize("title,size,dtype,backend", CASES, ids=[name(*one) for one in CASES])
def test_bytes_moved_and_sectors_loaded(title, size, dtype, backend):
    for kernel, (counts, minimum, stated) in moved(title, size, dtype, backend).items():
        assert loads(counts.load_bytes, stated), f"{kernel} loads {counts.load_bytes} bytes, not {stated.load}"
        assert close(counts.store_bytes, stated.store), f"{kernel} stores {counts.store_bytes} bytes, not {stated.store}"
        sectors = counting.SECTOR * counts.load_sectors
        assert loads(sectors, stated), f"{kernel} loads sectors of {sectors} bytes, not {stated.load}"
        assert minimum <= counts.load_bytes + counts.store_bytes, f"{kernel} moves less than it must"


@pytest.mark.parametrize("title,size,dtype,backend", [case(*one) for one in CASES])
def test_sectors_stored(title, size, dtype, backend):
    for kernel, (counts, _, stated) in moved(title, size, dtype, backend).items():
        sectors = counting.SECTOR * counts.store_sectors
        assert close(sectors, stated.store_sectors), f"{kernel} stores sectors of {sectors} bytes, not {stated.store_sectors}"


@pytest.mark.parametrize("dtype", counted.DTYPES, ids=str)
@pytest.mark.parametrize("backend", [pytest.param("cuda", marks=needs.nvcc), pytest.param("triton", marks=needs.triton)])
def test_drawn_numbers_are_written_once_and_nothing_is_read(backend, dtype):
    x = torch.empty(64, 1024, dtype=dtype)
    with pylayers.emulator.on(backends=[backend]) as emulation, pylayers.backend(backend):
        pylayers.init.two_sided_uniform_(x)
    counts = emulation.counts["two_sided_uniform"]
    assert counts.load_bytes == 0
    assert counts.store_bytes == counting.SECTOR * counts.store_sectors == x.nbytes
