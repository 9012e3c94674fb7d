"""Every kernel moves the bytes that its declaration in benchmarks/ states, and no more."""

from functools import cache

import pytest
from pylayers.benchmarks import BENCHMARKS, counted, counting
from pylayers.emulator import toolkit

SIZES = ((64, 4096), (40, 1024))
PRODUCT_SIZES = ((64, 256, 1024), (40, 128, 1024))
TOLERANCE = 0.05

BY_TITLE = {one.title: one for one in BENCHMARKS}
CASES = [
    (one.title, size, dtype, backend)
    for one in BENCHMARKS
    for size in (PRODUCT_SIZES if one.product else SIZES)
    for dtype in counted.DTYPES
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


@pytest.mark.parametrize("title,size,dtype,backend", CASES, ids=[name(*one) for one in CASES])
def test_bytes_moved_and_sectors_loaded(title, size, dtype, backend):
    for kernel, (counts, minimum, stated) in moved(title, size, dtype, backend).items():
        assert close(counts.load_bytes, stated.load), f"{kernel} loads {counts.load_bytes} bytes, not {stated.load}"
        assert close(counts.store_bytes, stated.store), f"{kernel} stores {counts.store_bytes} bytes, not {stated.store}"
        sectors = counting.SECTOR * counts.load_sectors
        assert close(sectors, stated.load), f"{kernel} loads sectors of {sectors} bytes, not {stated.load}"
        assert minimum <= counts.load_bytes + counts.store_bytes, f"{kernel} moves less than it must"


@pytest.mark.parametrize("title,size,dtype,backend", [case(*one) for one in CASES])
def test_sectors_stored(title, size, dtype, backend):
    for kernel, (counts, _, stated) in moved(title, size, dtype, backend).items():
        sectors = counting.SECTOR * counts.store_sectors
        assert close(sectors, stated.store_sectors), f"{kernel} stores sectors of {sectors} bytes, not {stated.store_sectors}"
