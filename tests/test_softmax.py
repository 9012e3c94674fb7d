import warnings

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

INF, NAN = float("inf"), float("nan")
# [rows, dim]: around the widths at which kernels change their path, multiples of nothing.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (5, 1024), (2, 3001), (1, 17001), (1, 40000)]
COLUMNS = [(5, 1), (7, 3), (2, 8), (100, 9), (33, 70), (1, 65), (300, 17), (3001, 20)]

both = pytest.mark.parametrize("name", ["softmax", "log_softmax"])


def over(dim, name):
    return tuple(lambda x, call=getattr(module, name): call(x, dim) for module in (functional, reference))


@every_backend
@every_dtype
@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_softmax(backend, device, dtype, name, size):
    harness.matches_float64(*over(-1, name), (3 * normal(*size, dtype=dtype, device=device),), backend)


@every_backend
@every_dtype
@both
@pytest.mark.parametrize("size", COLUMNS, ids=str)
def test_softmax_columns(backend, device, dtype, name, size):
    x = 3 * normal(*size, dtype=dtype, device=device)
    harness.matches_float64(*over(0, name), (x,), backend, long_sums=size[0] > 1000)


@every_backend
@both
def test_softmax_any_dimension(backend, device, name):
    x = normal(3, 4, 5, 6, device=device)
    for view in (x, x.transpose(0, 2), x[:, ::2], x.expand(2, 3, 4, 5, 6)):
        for dim in range(-view.dim(), view.dim()):
            harness.matches_float64(*over(dim, name), (view,), backend)
    harness.matches_float64(*over(0, name), (normal(device=device),), backend)


@every_backend
@every_dtype
@every_layout
def test_softmax_strides(backend, device, dtype, layout):
    x = layout(normal(5, 24, dtype=dtype, device=device))
    for dim in (0, 1):
        harness.matches_float64(*over(dim, "softmax"), (x,), backend)


@every_backend
def test_softmax_longest_rows(backend, device):
    harness.matches_float64(*over(-1, "softmax"), (3 * normal(1, 262144, device=device),), backend)


@every_backend
@every_dtype
@both
@pytest.mark.parametrize("long", [1, 20000])
@pytest.mark.parametrize("dim", [0, 1])
def test_softmax_not_finite(backend, device, dtype, name, long, dim):
    """As torch has it: rows of −inf alone, with +inf or with a nan are nan."""
    if long > 1 and (dim == 0 or backend == "triton" and dtype != torch.float32):
        pytest.skip("one long path is enough")
    ends = [[-INF, -INF], [0.0, INF], [INF, INF], [NAN, 0.0], [0.0, NAN], [NAN, NAN], [-INF, NAN], [-INF, 1.0], [2.0, -INF]]
    rows = torch.tensor(ends, dtype=dtype, device=device)
    rows = torch.cat([rows[:, :1], torch.full((9, 7 * long), -INF, dtype=dtype, device=device), rows[:, 1:]], 1)
    rows = rows.t().contiguous() if dim == 0 else rows
    with pylayers.backend(backend):
        y = getattr(functional, name)(rows, dim)
    expected = getattr(torch, name)(rows, dim)
    assert torch.equal(y.isnan(), expected.isnan())
    torch.testing.assert_close(y, expected, equal_nan=True)


@every_backend
@both
@pytest.mark.parametrize("dim", [0, 1])
def test_softmax_far_from_zero(backend, device, name, dim):
    x = torch.tensor([[-1e30, -1e30, -1e30], [1e30, -1e30, 0.0], [-200.0, -100.0, 0.0], [1e4, 1e4 - 1, 0.0]], device=device)
    x = x.t().contiguous() if dim == 0 else x
    harness.matches_float64(*over(dim, name), (x,), backend)


@every_backend
@both
@pytest.mark.parametrize("dim", [0, 1])
def test_softmax_finds_a_maximum_anywhere(backend, device, name, dim):
    """Each row and each column has it at another place, so far above the others that its exponential alone would overflow."""
    x = normal(70, 70, device=device) + 300 * torch.eye(70, device=device)
    harness.matches_float64(*over(dim, name), (x,), backend)


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0), (2, 0, 3)], ids=str)
def test_softmax_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    with pylayers.backend(backend):
        for dim in range(len(shape)):
            y = functional.softmax(x, dim) + functional.log_softmax(x, dim)
            y.sum().backward()
            assert y.shape == x.grad.shape == x.shape
        if len(shape) > 1:
            assert functional.scaled_masked_softmax(x, causal=True).shape == x.shape


def test_softmax_dtype_and_implicit_dimension():
    x = normal(3, 4, dtype=torch.bfloat16)
    assert functional.softmax(x, -1, torch.float32).dtype == torch.float32
    torch.testing.assert_close(functional.log_softmax(x, -1, dtype=torch.float32), torch.log_softmax(x.float(), -1))
    torch.testing.assert_close(functional.softmax(torch.arange(4), 0, torch.float32), torch.softmax(torch.arange(4.0), 0))
    for shape in ((4,), (3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = normal(*shape)
        for name in ("softmax", "log_softmax"):
            with pytest.warns(UserWarning, match=f"{name}: the choice of dim"):
                y = getattr(functional, name)(x)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.testing.assert_close(y, getattr(torch.nn.functional, name)(x))


# ---- scores

MASKS = {
    "none": lambda kind: None,
    "bias": lambda kind: normal(6, 40, **kind),
    "bias of each head": lambda kind: normal(3, 1, 40, **kind),
    "bias of each batch": lambda kind: normal(2, 1, 6, 40, **kind),
    "bias of all": lambda kind: normal(2, 3, 6, 40, **kind),
    "one for a query": lambda kind: normal(6, 1, **kind),
    "transposed": lambda kind: normal(40, 6, **kind).t(),
    "misaligned": lambda kind: normal(6 * 40 + 1, **kind)[1:].view(6, 40),
    "bool": lambda kind: normal(6, 40, device=kind["device"]) > 0,
    "bool of each batch": lambda kind: normal(2, 1, 1, 40, device=kind["device"]) > 0.5,
    "bool of all": lambda kind: normal(2, 3, 6, 40, device=kind["device"]) > 0.5,
    "one bool": lambda kind: torch.tensor(True, device=kind["device"]),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def with_mask(*options):
    return tuple(lambda x, call=module.scaled_masked_softmax: call(x, *options) for module in (functional, reference))


@every_backend
@every_dtype
@every_mask
@pytest.mark.parametrize("causal", [False, True])
def test_scaled_masked_softmax(backend, device, dtype, mask, causal):
    kind = dict(dtype=dtype, device=device)
    harness.matches_float64(*with_mask_in(dtype, mask(kind), 0.3, causal), (3 * normal(2, 3, 6, 40, **kind),), backend)


def with_mask_in(dtype, mask, *others):
    """The mask in the dtype that the scores have: the definition is called in float64 too."""

    def on(call):
        def function(x):
            return call(x, mask if mask is None or mask.dtype == torch.bool else mask.to(x.dtype), *others)

        return function

    return on(functional.scaled_masked_softmax), on(reference.scaled_masked_softmax)


@every_backend
@pytest.mark.parametrize("queries,keys", [(1, 50), (7, 7), (12, 5), (5, 12), (3, 5000), (2, 40000)])
def test_scaled_masked_softmax_causal(backend, device, queries, keys):
    """Aligned to the last key; queries before the first key see nothing."""
    x = normal(2, queries, keys, device=device)
    harness.matches_float64(*with_mask(None, 0.7, True), (x,), backend)
    harness.matches_float64(*with_mask(normal(queries, keys, device=device) > 0, 0.7, True), (x,), backend)


@every_backend
def test_scaled_masked_softmax_strides(backend, device):
    x = normal(2, 4, 3, 10, device=device)
    for view in (x.transpose(1, 2), x[..., 1:8], x[:, ::2], x.transpose(2, 3), x[:1].expand(2, 4, 3, 10)):
        mask = normal(*view.shape[-2:], device=device)
        harness.matches_float64(*with_mask_in(x.dtype, mask, 2.0, False), (view,), backend)
    x, cut = normal(2, 3, 16, device=device), normal(3, 21, device=device)[:, :16]  # each row of the mask begins elsewhere
    for mask in (cut, cut > 0):
        harness.matches_float64(*with_mask_in(x.dtype, mask, 2.0, False), (x,), backend)
    alternating = normal(2, 1, 3, 1, 5, 7, device=device)
    harness.matches_float64(
        *with_mask_in(x.dtype, alternating, 1.0, False), (normal(2, 4, 3, 2, 5, 7, device=device),), backend
    )


@every_backend
@every_dtype
@pytest.mark.parametrize("kind", ["bool", "bias", "scores"])
def test_scaled_masked_softmax_nothing_to_attend(backend, device, dtype, kind):
    """Zeros, and a gradient of zeros; a nan is not hidden."""
    x = normal(4, 30, dtype=dtype, device=device)
    seen = torch.ones(4, 30, dtype=torch.bool, device=device)
    seen[1] = False
    hidden = torch.zeros_like(x).masked_fill(~seen, -INF)
    mask = {"bool": seen, "bias": hidden, "scores": None}[kind]
    x = x + hidden if kind == "scores" else x
    x[2, 3] = NAN
    x.requires_grad_()
    with pylayers.backend(backend):
        y = functional.scaled_masked_softmax(x, mask)
        y.backward(torch.ones_like(y))
    assert torch.equal(y[1], torch.zeros_like(y[1])) and torch.equal(x.grad[1], torch.zeros_like(y[1]))
    assert y[2].isnan().all() and not y[[0, 3]].isnan().any()


@every_backend
def test_scaled_masked_softmax_masked_is_zero_exactly(backend, device):
    x, seen = normal(3, 70, device=device) - 200, normal(3, 70, device=device) > 0
    with pylayers.backend(backend):
        y = functional.scaled_masked_softmax(x, seen)
        z = functional.scaled_masked_softmax(x, torch.zeros_like(x).masked_fill(~seen, -INF))
    assert (y[~seen] == 0).all() and (z[~seen] == 0).all()
    torch.testing.assert_close(y.sum(-1), torch.ones(3, device=device))


@every_backend
def test_scaled_masked_softmax_what_causal_hides_is_not_read(backend, device):
    x = normal(2, 6, 6, device=device)
    hidden = torch.ones(6, 6, dtype=torch.bool, device=device).triu(1)
    x = x.masked_fill(hidden, NAN).requires_grad_()
    with pylayers.backend(backend):
        y = functional.scaled_masked_softmax(x, causal=True)
        # Nor are their gradients, but by the definition.
        y.backward(y.detach() if backend == "reference" else y.detach().masked_fill(hidden, NAN))
    assert not y.isnan().any() and not x.grad.isnan().any() and (x.grad.masked_select(hidden) == 0).all()


def test_scaled_masked_softmax_gradient_of_a_bias():
    x, bias = normal(2, 3, 4, 5).double().requires_grad_(), normal(3, 1, 5).double().requires_grad_()
    torch.autograd.gradcheck(lambda a, b: functional.scaled_masked_softmax(a, b, 0.5, True), (x, bias))


def test_scaled_masked_softmax_agrees_with_attention():
    q, k = normal(2, 3, 6, 8), normal(2, 3, 6, 8, seed=1)
    seen = normal(6, 6) > 0
    seen[2] = False
    for options in (dict(attn_mask=seen), dict(is_causal=True), dict(attn_mask=normal(6, 6))):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, torch.eye(6).expand(2, 3, 6, 6), **options)
        weights = functional.scaled_masked_softmax(q @ k.mT, options.get("attn_mask"), 8**-0.5, "is_causal" in options)
        torch.testing.assert_close(weights, expected)


# ---- what every op promises


def test_softmax_saves_its_output_alone():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        x = normal(4, 8).requires_grad_()
        outputs = [functional.softmax(x, 1), functional.log_softmax(x, 0), functional.scaled_masked_softmax(x, x.detach() > 0)]
    assert [one.data_ptr() for one in saved] == [one.data_ptr() for one in outputs]


def test_softmax_an_edited_output_is_noticed():
    y = functional.softmax(normal(4, 8).requires_grad_(), 1)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@both
def test_softmax_derivatives(name):
    for dim in (0, 1):
        harness.derivatives_hold(over(dim, name)[0], (normal(3, 4),))


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_masked_softmax_derivatives(causal):
    for mask in (normal(3, 4).double(), normal(3, 4) > 0):
        harness.derivatives_hold(with_mask(mask, 0.5, causal)[0], (normal(2, 3, 4),))


def test_softmax_transforms():
    harness.transforms_match(*over(-1, "softmax"), (normal(3, 4),))
    harness.transforms_match(*over(0, "log_softmax"), (normal(3, 4),))
    harness.transforms_match(functional.scaled_masked_softmax, reference.scaled_masked_softmax, (normal(3, 4), normal(3, 4)))


def test_softmax_compiles():
    seen = normal(4, 6) > 0

    def every(x):
        scores = functional.scaled_masked_softmax(x[:, None] * torch.ones(4, 1), seen, 0.5, True)
        return functional.softmax(x, -1) + functional.log_softmax(x, 0) + scores.sum(1)

    harness.compiles(every, (normal(4, 6),))


@pytest.mark.parametrize("grad", [False, True])
def test_softmax_opcheck(grad):
    x = normal(3, 8, 6).requires_grad_(grad)
    for name in ("softmax", "log_softmax"):
        for dim in (-1, 1):
            harness.passes_opcheck(name, x, dim)
    harness.passes_opcheck("scaled_masked_softmax", x, normal(8, 6), 0.5, True)
    harness.passes_opcheck("scaled_masked_softmax", x, normal(8, 6) > 0, 0.5, False)
    harness.passes_opcheck("softmax_forward", x.detach(), 0, True)
    harness.passes_opcheck("softmax_backward", x, x, 2, False)
    harness.passes_opcheck("softmax_masked_forward", x.detach(), None, 1.0, True)
    harness.passes_opcheck("softmax_masked_backward", x, x, 0.5, True)


def test_softmax_autocast():
    x, bias = normal(3, 8, dtype=torch.bfloat16), normal(8)
    with torch.autocast("cpu", torch.bfloat16):
        for name in ("softmax", "log_softmax"):
            assert getattr(functional, name)(x, -1).dtype == getattr(torch, name)(x, -1).dtype
        assert functional.scaled_masked_softmax(x, bias).dtype == torch.bfloat16


def test_softmax_modules():
    x = normal(2, 3, 4)
    for ours, theirs in ((pylayers.Softmax, torch.nn.Softmax), (pylayers.LogSoftmax, torch.nn.LogSoftmax)):
        for dim in (0, 1, -1):
            torch.testing.assert_close(ours(dim)(x), theirs(dim)(x))
            assert repr(ours(dim)) == repr(theirs(dim))
        assert repr(ours()) == repr(theirs()) and not ours().state_dict()
        with pytest.warns(UserWarning):
            torch.testing.assert_close(ours()(x), ours(0)(x))
        for dim in (0, -1):
            harness.keeps_the_module_contract(lambda dim=dim, cls=ours, **_: cls(dim), normal(5, 8))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.softmax(3, 0), TypeError, "softmax: input must be a Tensor, got int"),
        (lambda x: functional.softmax(x.long(), 0), TypeError, "softmax: input must be float64"),
        (lambda x: functional.softmax(x, 2), ValueError, "dim must be between -2 and 1 for an input of 2 dimensions, got 2"),
        (lambda x: functional.log_softmax(x[0, 0], 1), ValueError, "log_softmax: dim must be between -1 and 0"),
        (lambda x: functional.scaled_masked_softmax(x[0]), ValueError, "input must have shape (..., queries, keys), got [3]"),
        (lambda x: functional.scaled_masked_softmax(x, x.half()), TypeError, "must be bool or have the dtype of input (Float)"),
        (lambda x: functional.scaled_masked_softmax(x, x.long()), TypeError, "got Long"),
        (lambda x: functional.scaled_masked_softmax(x, x[:, :2]), ValueError, "mask must broadcast to the shape of input [2, 3]"),
        (lambda x: functional.scaled_masked_softmax(x, x[None]), ValueError, "mask must broadcast to the shape of input [2, 3]"),
        (lambda x: functional.scaled_masked_softmax(x, x.to("meta")), RuntimeError, "must be on the device of input (cpu), got meta"),
        (lambda x: functional.scaled_masked_softmax(x, [x]), TypeError, "mask must be a Tensor, got list"),
    ],
)
def test_softmax_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
