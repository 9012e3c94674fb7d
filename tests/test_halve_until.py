import copy
import math
import pickle

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

SIZES = [(1, 1), (3, 7), (65, 33), (2, 3001), (1, 20001), (5, 8192)]


def loop(x, threshold=1.0):
    """As the chapter has it, with the sum in the dtype that is computed in."""
    while x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).abs().sum() > threshold:
        x = x / 2
    return x


@every_backend
@every_dtype
@pytest.mark.parametrize("threshold", [1.0, 0.3, 1e4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_halve_until(backend, device, dtype, size, threshold):
    x = normal(*size, dtype=dtype, device=device)
    ours, exact = (lambda a, call=call: call(a, threshold) for call in (functional.halve_until, reference.halve_until))
    harness.matches_float64(ours, exact, (x,), backend)
    with pylayers.backend(backend):
        y = ours(x)
    if dtype != torch.float16:  # whose results may be subnormal: rounded once, not in every turn
        assert torch.equal(y, loop(x, threshold))


@every_backend
@every_dtype
@every_layout
def test_halve_until_strides(backend, device, dtype, layout):
    x = layout(normal(5, 24, dtype=dtype, device=device))
    harness.matches_float64(functional.halve_until, reference.halve_until, (x,), backend)


@every_backend
@every_dtype
def test_halve_until_stops_in_time(backend, device, dtype):
    """Sums that are exact: at the threshold, just above, and a power of two times it."""
    with pylayers.backend(backend):
        for numbers, threshold, k in (
            ([0.25, -0.75], 1.0, 0),
            ([0.5, -0.75], 1.0, 1),
            ([3.0, -5.0], 1.0, 3),
            ([3.0, -5.0, 0.03125], 1.0, 4),
            ([3.0, 5.0], 8.0, 0),
            ([3.0, 3.0], 1.5, 2),
            ([3.0, 3.25], 1.5, 3),
            ([0.0, -0.0], 1e-3, 0),
            ([0.0009765625, 0.0], 0.0009765625 / 4, 2),
        ):
            x = torch.tensor(numbers, dtype=dtype, device=device)
            assert torch.equal(functional.halve_until(x, threshold), x * 2.0**-k), (numbers, threshold)


@every_backend
@every_dtype
def test_halve_until_not_finite(backend, device, dtype):
    with pylayers.backend(backend):
        for special in (math.inf, -math.inf, math.nan):
            x = torch.tensor([100.0, special, 3.0], dtype=dtype, device=device, requires_grad=True)
            y = functional.halve_until(x)
            assert torch.equal(y.nan_to_num(7), x.nan_to_num(7)) and y.data_ptr() != x.data_ptr()
            assert torch.equal(torch.autograd.grad(y, x, torch.ones_like(y))[0], torch.ones_like(x))


@every_backend
@every_dtype
def test_halve_until_sum_that_overflows(backend, device, dtype):
    largest = torch.finfo(dtype).max  # almost 2 to the e
    e = math.frexp(largest)[1]
    x = torch.tensor([largest, -largest, largest, largest / 4], dtype=dtype, device=device)
    with pylayers.backend(backend):
        assert torch.equal(functional.halve_until(x, largest), x / 4)
        assert torch.equal(functional.halve_until(x), x * 2.0 ** -(e // 2) * 2.0 ** (e // 2 - e - 2))


@every_backend
def test_halve_until_subnormal_results_are_rounded_once(backend, device):
    """Ties and their neighbours at the end of the range, by hand."""
    tiny = 2.0**-149
    with pylayers.backend(backend):
        x = torch.tensor([2.0**100, 3 * tiny, tiny, 5 * tiny, 7 * tiny, 0.0], device=device)
        y = functional.halve_until(x, 2.0**99)
        assert y.tolist() == [2.0**99, 2 * tiny, 0.0, 2 * tiny, 4 * tiny, 0.0]
        x = torch.tensor([2.0**100, 2.0**-20, -(2.0**-20) * 1.5], device=device)
        y = functional.halve_until(x, 2.0**-30)  # k = 130: 2^-150 is a tie, 1.5 · 2^-150 is above it
        assert y.tolist() == [2.0**-30, 0.0, -tiny]
        x = torch.tensor([2.0**127, 2.0**20], device=device)
        y = functional.halve_until(x, 2.0**-140)  # k = 267, of which 2^20 leaves nothing
        assert y.tolist() == [2.0**-140, 0.0]
        x = torch.tensor([60000.0, 7.0, 1.0], dtype=torch.float16, device=device)
        y = functional.halve_until(x, 2.0**-9)  # k = 25
        assert y.tolist() == [60000 * 2.0**-25, 8 * 2.0**-25, 0.0]


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0)], ids=str)
def test_halve_until_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    with pylayers.backend(backend):
        y = functional.halve_until(x)
        y.sum().backward()
    assert y.shape == x.grad.shape == torch.Size(shape)


@every_backend
def test_halve_until_without_dimensions(backend, device):
    with pylayers.backend(backend):
        assert functional.halve_until(torch.tensor(-5.0, device=device), 1) == -0.625


def test_halve_until_same_bits_with_one_thread():
    before, found = torch.get_num_threads(), []
    x = normal(300, 1001)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(torch.ops.pylayers.halve_until_forward(x, 1.0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_halve_until_saves_a_number():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.halve_until(normal(40, 8).requires_grad_())
    assert [one.numel() for one in saved] == [1]


def test_halve_until_threshold_as_torch_compares():
    x = torch.tensor([0.1])
    assert x > 0.099999 and not x > 0.1
    assert torch.equal(functional.halve_until(x, 0.1), x)
    assert functional.halve_until(x, 1e-300) == 2.0**-149  # the smallest number of its dtype


def test_halve_until_derivatives():
    """k is a constant: the point is not at a jump."""
    harness.derivatives_hold(functional.halve_until, (normal(3, 4),))


def test_halve_until_transforms():
    """Batched, each sample has its own k."""
    harness.transforms_match(functional.halve_until, reference.halve_until, (normal(3, 4),))
    x = normal(3, 4)
    both = torch.func.vmap(functional.halve_until)(torch.stack([x, 64 * x]))
    assert torch.equal(both[0], both[1]) and torch.equal(both[0], functional.halve_until(x))


def test_halve_until_compiles():
    harness.compiles(lambda x: functional.halve_until(x) * 2, (normal(4, 6),))


@pytest.mark.parametrize("grad", [False, True])
def test_halve_until_opcheck(grad):
    x = normal(3, 8).requires_grad_(grad)
    harness.passes_opcheck("halve_until", x, 1.0)
    harness.passes_opcheck("halve_until_forward", x.detach(), 1.0)
    harness.passes_opcheck("halve_until_backward", x, torch.tensor(3.0))


def test_halve_until_module():
    x = normal(3, 8)
    layer = pylayers.HalveUntil(0.5)
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x), loop(x, 0.5))
    assert repr(layer) == "HalveUntil(threshold=0.5)" and not layer.state_dict()
    assert torch.equal(pylayers.HalveUntil()(x), loop(x)) and layer(x.to("meta")).shape == x.shape


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (([1.0],), TypeError, "halve_until: input must be a Tensor, got list"),
        ((torch.ones(2).int(),), TypeError, "halve_until: input must be float64, float32, float16 or bfloat16, got Int"),
        ((torch.ones(2), 0.0), ValueError, "halve_until: threshold must be positive and finite, got 0"),
        ((torch.ones(2), -1), ValueError, "threshold must be positive and finite, got -1"),
        ((torch.ones(2), math.inf), ValueError, "threshold must be positive and finite, got inf"),
        ((torch.ones(2), math.nan), ValueError, "threshold must be positive and finite, got nan"),
        ((torch.ones(2), "one"), TypeError, "halve_until: the arguments must be"),
    ],
)
def test_halve_until_bad_input(arguments, error, sentence):
    with pytest.raises(error) as raised:
        functional.halve_until(*arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
