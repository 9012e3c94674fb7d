"""Every check of the emulator: kernels that must be caught, and beside them some that must not."""

from pathlib import Path

import numpy as np
import pytest
from pylayers.emulator import Fault, constant, launch, output
from pylayers.emulator.run import ptx_of

SOURCE = Path(__file__).with_name("checks.cu")

GOOD = """copies reverses swaps_in_warp last_block_finishes barrier_in_uniform_branch named_barrier shuffles copies_async
    cluster_swaps""".split()
BAD = {
    "reads_behind": "reads global memory out of bounds",
    "writes_behind": "writes global memory out of bounds",
    "writes_input": "writes to an input",
    "misaligned": "not a multiple of the 8 bytes",
    "reads_output": "reads global memory that nothing was written to",
    "shared_unwritten": "reads shared memory that nothing was written to",
    "shared_behind": "writes shared memory out of bounds",
    "reverses_without_barrier": "race in shared memory: .* another warp (read|wrote)",
    "overwrites_what_others_read": "race in shared memory: .* another warp (read|wrote)",
    "writes_same_place": "race in shared memory: overwrites what another warp wrote",
    "swaps_in_warp_unsynchronised": "another lane of the warp",
    "reduces_in_warp_unsynchronised": "another lane of the warp",
    "blocks_overlap": "race in global memory: overwrites what another block wrote",
    "reads_other_block": "race in global memory: reads what another block wrote|nothing was written",
    "barrier_in_branch": "barrier divergence",
    "barrier_for_half_a_warp": "barrier divergence",
    "shuffle_names_missing_lanes": "member mask names lane",
    "shuffle_reads_missing_lane": "shfl reads from an inactive lane",
    "votes_outside_mask": "member mask leaves it out",
    "copies_async_unwaited": "reads shared memory that nothing was written to",
    "copies_async_without_barrier": "race in shared memory: reads what another (warp|lane of the warp) wrote|nothing was written",
    "never_ends": "does not end",
    "asserts": "trap",
    "cluster_swaps_without_barrier": "another block of the cluster",
    "cluster_writes_before_all_begin": "a block that may not have begun",
}


@pytest.fixture(scope="module")
def module():
    return launch.Module(ptx_of(SOURCE, 90))


def run(module, name, **options):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(128, dtype=np.float32), np.full(128, np.nan, np.float32)
    kernel = module.kernel(name)
    arguments = [output(y), constant(x)]
    if len(kernel.parameters) == 3:
        arguments.append(np.zeros(1, np.uint32))
    cluster = (2,) if name.startswith("cluster") else (1,)
    kernel.launch(2, 64, arguments, cluster=cluster, step_limit=100_000, **options)
    return x, y


@pytest.mark.parametrize("order", (0, 1, 2, 3))
@pytest.mark.parametrize("name", GOOD)
def test_lets_pass(module, name, order):
    run(module, name, order=order)


@pytest.mark.parametrize("order", (0, 1, 2))
@pytest.mark.parametrize("name", BAD)
def test_catches(module, name, order):
    with pytest.raises(Fault, match=BAD[name]) as caught:
        run(module, name, order=order)
    assert caught.value.kernel == name
    if name != "never_ends":
        assert "checks.cu:" in caught.value.source, caught.value
        assert "thread" in caught.value.where


def test_source_line_is_the_one_at_fault(module):
    with pytest.raises(Fault) as caught:
        run(module, "reads_behind")
    file, line = caught.value.source.rsplit(":", 1)
    assert "reads_behind" in Path(file).read_text().splitlines()[int(line) - 1]


def test_orders_must_give_the_same_bits(module):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(128, dtype=np.float32), np.zeros(128, np.float32)
    kernel = module.kernel("adds_with_float_atomics")
    kernel.launch(2, 64, [y, constant(x)], order=1)
    with pytest.raises(Fault, match="results differ between orders"):
        kernel.launch(2, 64, [y, constant(x)], order=(0, 1, 2))
    module.kernel("copies").launch(2, 64, [output(y), constant(x)], order=(0, 1, 2))


def test_results(module):
    x, y = run(module, "reverses")
    np.testing.assert_array_equal(y, np.tile(x[:64][::-1], 2))
    x, y = run(module, "cluster_swaps")
    np.testing.assert_array_equal(y, np.concatenate([x[64:], x[:64]]))
    x, y = run(module, "last_block_finishes", order=1)
    np.testing.assert_array_equal(y[:64], x[:64] + x[64:])
