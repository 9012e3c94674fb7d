import math

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

# [rows, dim]: around the sizes at which kernels change their path, multiples of nothing, sums that are split.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (5, 1024), (130, 5)]
LONG = 40001
DIMS = [None, 0, -1]
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def not_interpreted(backend):
    if pylayers.backends()[backend].note.startswith("interpreted"):
        pytest.skip("interpreted")


def over(call, dim):
    return lambda *tensors: call(*tensors, dim)


def center_matches(x, dim, backend):
    harness.matches_float64(over(functional.center, dim), over(reference.center, dim), (x,), backend)


def affine_matches(x, weight, bias, dim, backend):
    ours, exact = over(functional.centered_affine, dim), over(reference.centered_affine, dim)
    harness.matches_float64(ours, exact, (x, weight, bias), backend)


def features(count, *, dtype=torch.float32, device="cpu"):
    return normal(count, dtype=dtype, device=device, seed=1), normal(count, dtype=dtype, device=device, seed=2)


def test_center_of_the_book():
    assert torch.equal(functional.center(torch.arange(1.0, 6.0)), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    net = torch.nn.Sequential(torch.nn.Linear(8, 128), pylayers.CenteredLayer())
    assert abs(net(normal(4, 8)).mean()) < 1e-7


@every_backend
@every_dtype
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_center(backend, device, dtype, size, dim):
    center_matches(normal(*size, dtype=dtype, device=device) + 1, dim, backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_centered_affine(backend, device, dtype, size, dim):
    x = normal(*size, dtype=dtype, device=device) + 1
    affine_matches(x, *features(size[1], dtype=dtype, device=device), dim, backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("dim", [0, -1])
def test_centered_long_row(backend, device, dtype, dim):
    if dim == 0 or dtype != torch.float32:
        not_interpreted(backend)  # which takes its time
    x = normal(1, LONG, dtype=dtype, device=device) + 1
    center_matches(x, dim, backend)
    affine_matches(x, *features(LONG, dtype=dtype, device=device), dim, backend)


@every_backend
@every_dtype
def test_centered_columns_that_are_split(backend, device, dtype):
    """More rows than a block of a GPU holds, few and many columns."""
    for rows, dim in ((1100, 3), (1500, 40)):
        x, parameters = normal(rows, dim, dtype=dtype, device=device), features(dim, dtype=dtype, device=device)
        affine_matches(x, *parameters, 0, backend)
    center_matches(normal(2, 1100, 8, dtype=dtype, device=device), 1, backend)


@every_backend
@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 300, 5), (600, 2, 4)], ids=str)
def test_centered_dimensions(backend, device, shape):
    if math.prod(shape) > 1000:
        not_interpreted(backend)  # which adds in order, and rounds more
    x = normal(*shape, device=device)
    for dim in (0, 1, 2, (0, 1), (-1, -2), (0, 1, 2)):
        center_matches(x, dim, backend)
    for dim in (0, 1, -1):
        affine_matches(x, *features(shape[-1], device=device), dim, backend)


@every_backend
@every_dtype
@every_layout
@pytest.mark.parametrize("dim", DIMS)
def test_centered_strides(backend, device, dtype, layout, dim):
    x, (weight, bias) = layout(normal(70, 24, dtype=dtype, device=device)), features(48, dtype=dtype, device=device)
    center_matches(x, dim, backend)
    if dim is not None:
        affine_matches(x, weight[::2], bias[1::2], dim, backend)


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0), (3, 0, 5)], ids=str)
def test_centered_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight, bias = (one.requires_grad_() for one in features(shape[-1], device=device))
    with pylayers.backend(backend):
        for y in (functional.center(x), functional.center(x, 0), functional.centered_affine(x, weight, bias)):
            x.grad = None
            y.sum().backward()
            assert y.shape == x.grad.shape == torch.Size(shape)
    assert torch.equal(weight.grad, torch.zeros_like(weight)) and torch.equal(bias.grad, torch.zeros_like(bias))


@every_backend
def test_center_without_dimensions(backend, device):
    center_matches(normal(1, device=device)[0], None, backend)


@every_backend
@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("rows", [40, 1100])
@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
def test_centered_affine_only_the_gradient_asked_for(backend, device, wanted, rows, dim):
    tensors = (normal(rows, 12, device=device), *features(12, device=device))
    place = ("input", "weight", "bias").index(wanted)
    tensors[place].requires_grad_()
    grad = normal(rows, 12, device=device, seed=5)
    with pylayers.backend(backend):
        functional.centered_affine(*tensors, dim).backward(grad)
    exact = [one.detach().double().requires_grad_() for one in tensors]
    reference.centered_affine(*exact, dim).backward(grad.double())
    torch.testing.assert_close(tensors[place].grad.double(), exact[place].grad, rtol=1e-5, atol=2e-5)
    assert [one.grad is None for one in tensors] == [one != place for one in range(3)]


@every_backend
@pytest.mark.parametrize("dim", [0, -1])
def test_centered_affine_without_weight_or_bias(backend, device, dim):
    x, (weight, bias) = normal(70, 9, device=device), features(9, device=device)
    for ours, exact in (
        (lambda x, b: functional.centered_affine(x, None, b, dim), lambda x, b: reference.centered_affine(x, None, b, dim)),
        (lambda x, w: functional.centered_affine(x, w, None, dim), lambda x, w: reference.centered_affine(x, w, None, dim)),
    ):
        harness.matches_float64(ours, exact, (x, weight), backend)
    with pylayers.backend(backend):
        assert torch.equal(functional.centered_affine(x, None, None, dim), functional.center(x, dim))


@every_backend
@every_dtype
def test_center_bound_on_the_mean(backend, device, dtype):
    """As the docstring states it."""
    for size, dim in (((300, 70), None), ((1, 40000), -1), ((3000, 2), 0)):
        x = (normal(*size, device=device) + 10).to(dtype)
        with pylayers.backend(backend):
            y = functional.center(x, dim).double()
        dims = (0, 1) if dim is None else dim
        epsilon = UNIT[torch.float64 if dtype == torch.float64 else torch.float32]
        unit = UNIT[dtype] * (2 if backend == "triton" and pylayers.backends()["triton"].note.startswith("interpreted") else 1)
        bound = unit * y.abs().mean(dims) + 32 * epsilon * x.double().abs().mean(dims)
        assert (y.mean(dims).abs() <= bound).all()


def test_centered_same_bits_with_one_thread():
    before, found = torch.get_num_threads(), []
    x, (weight, bias) = normal(3000, 70), features(70)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = [one.clone().requires_grad_() for one in (x, weight, bias)]
            y = functional.centered_affine(*leaves)
            found.append([functional.center(x), functional.center(x.view(1, -1), -1), y, *torch.autograd.grad(y, leaves, x)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def saved_by(function, *tensors):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function(*tensors)
    return saved


def test_centered_saves_what_gradients_need():
    x, (weight, bias) = normal(6, 8).requires_grad_(), features(8)
    assert not saved_by(functional.center, x)
    assert [one.data_ptr() for one in saved_by(functional.centered_affine, x, None, bias)] == []
    assert [one.data_ptr() for one in saved_by(functional.centered_affine, x, weight, bias)] == [weight.data_ptr()]
    saved = saved_by(functional.centered_affine, x, weight.requires_grad_(), bias)
    assert [one.numel() for one in saved] == [48, 8, 8]
    with torch.no_grad():
        assert functional.centered_affine(x, weight, bias).grad_fn is None


def test_centered_derivatives():
    for dim in (None, 0, (0, 1)):
        harness.derivatives_hold(over(functional.center, dim), (normal(3, 2, 2),))
    for dim in (0, -1):
        harness.derivatives_hold(over(functional.centered_affine, dim), (normal(3, 4), *features(4)))
    harness.derivatives_hold(lambda x, b: functional.centered_affine(x, None, b), (normal(3, 4), features(4)[0]))


def test_centered_transforms():
    """Batched, the mean of a whole tensor is that of each sample."""
    for dim in (None, 0, -1):
        harness.transforms_match(over(functional.center, dim), over(reference.center, dim), (normal(3, 4),))
    ours, exact = over(functional.centered_affine, 0), over(reference.centered_affine, 0)
    harness.transforms_match(ours, exact, (normal(3, 4), *features(4)))


def test_centered_compiles():
    harness.compiles(lambda x: functional.center(x) * 2 + functional.center(x, 0), (normal(4, 6),))
    harness.compiles(lambda x, w, b: functional.centered_affine(x, w, b) * 2, (normal(4, 6), *features(6)))


@pytest.mark.parametrize("grad", [False, True])
def test_centered_opcheck(grad):
    x, weight, bias = (one.requires_grad_(grad) for one in (normal(3, 8, 6), *features(6)))
    harness.passes_opcheck("center", x, None)
    harness.passes_opcheck("center", x, (1, 2))
    harness.passes_opcheck("centered_affine", x, weight, bias, 0)
    harness.passes_opcheck("centered_affine", x, None, bias, -1)
    plain = [one.detach() for one in (x, weight, bias)]
    harness.passes_opcheck("centered_forward", *plain, 1, 2, True)
    harness.passes_opcheck("centered_forward", plain[0], None, None, 0, 3, False)
    harness.passes_opcheck("centered_affine_backward", x, x, weight, torch.ones(3, 6), 1, [True, True, True])
    harness.passes_opcheck("centered_affine_backward", x, None, weight, None, 2, [True, False, True])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_centered_autocast(dtype):
    x, ours = normal(3, 8, dtype=dtype), pylayers.CenteredAffine(8)
    with torch.autocast("cpu", dtype):
        assert ours(x).dtype == pylayers.CenteredLayer()(x).dtype == dtype
        torch.testing.assert_close(ours(x), functional.center(x, 0))


def test_centered_modules():
    import copy
    import pickle

    x = normal(5, 16)
    harness.keeps_the_module_contract(lambda **kind: pylayers.CenteredAffine(16, **kind), x)
    harness.keeps_the_module_contract(lambda **kind: pylayers.CenteredAffine(16, -1, scale=False, **kind), x)
    affine = pylayers.CenteredAffine(16)
    assert {name: tuple(one.shape) for name, one in affine.state_dict().items()} == {"weight": (16,), "bias": (16,)}
    assert list(pylayers.CenteredAffine(16, scale=False).state_dict()) == ["bias"]
    torch.testing.assert_close(affine(x), x - x.mean(0))
    assert affine.extra_repr() == "16, dim=0, scale=True"
    for dim in (None, -1, (0, 1), [0, 1]):
        layer = pylayers.CenteredLayer(dim)
        for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(same(x), functional.center(x, dim))
        assert not layer.state_dict() and layer(x.to("meta")).shape == x.shape
    assert repr(pylayers.CenteredLayer((0, 1))) == "CenteredLayer(dim=(0, 1))"


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.center([1.0]), TypeError, "center: input must be a Tensor, got list"),
        (lambda x: functional.center(x.int()), TypeError, "center: input must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x: functional.center(x, 3), ValueError, "center: dim must be between -3 and 2 (input has 3 dimensions), got 3"),
        (lambda x: functional.center(x, ()), ValueError, "center: dim must name at least one dimension, or be None for all"),
        (lambda x: functional.center(x, (0, 2)), ValueError, "center: dim must name dimensions that lie next to each other"),
        (lambda x: functional.center(x, (1, 1)), ValueError, "each once, got [1, 1]"),
        (lambda x: functional.center(x, "rows"), TypeError, "center: the arguments must be"),
        (lambda x: functional.centered_affine(x, x[0, 0], None, -4), ValueError, "centered_affine: dim must be between -3 and 2"),
        (lambda x: functional.centered_affine(x, x[0], None), ValueError, "weight must have shape (4,) (the last dimension of input)"),
        (lambda x: functional.centered_affine(x, None, x[0, 0, :3]), ValueError, "bias must have shape (4,) (the last dimension"),
        (lambda x: functional.centered_affine(x, x[0, 0].half(), None), TypeError, "weight must have the dtype of input (Float), got Half"),
        (lambda x: functional.centered_affine(x, None, x[0, 0].to("meta")), RuntimeError, "bias must be on the device of input (cpu)"),
        (lambda x: functional.centered_affine(x[0, 0, 0], None, None), ValueError, "input must have at least one dimension, got shape []"),
        (lambda x: functional.centered_affine(x, None, None, (0, 1)), TypeError, "centered_affine: the arguments must be"),
    ],
)
def test_centered_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3, 4))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
