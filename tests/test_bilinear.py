from functools import partial

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

# [rows, in1, in2, out]. Of the larger ones two have several blocks of rows and of the weight on a CPU, by either way to cut it,
# two on a GPU.
SIZES = [(1, 1, 1, 1), (3, 7, 5, 2), (17, 9, 40, 33), (2, 64, 3, 50)]
LARGE = [(2, 600, 3, 4), (150, 33, 20, 40), (150, 70, 65, 3), (150, 96, 80, 90), (150, 400, 30, 20)]

matches_float64 = partial(harness.matches_float64, long_sums=True)


def tensors(rows, in1, in2, out, bias=True, **kind):
    x1, x2 = normal(rows, in1, **kind), normal(rows, in2, seed=1, **kind)
    weight = normal(out, in1, in2, seed=2, **kind) / (in1 * in2) ** 0.5
    return (x1, x2, weight, normal(out, seed=3, **kind))[: 3 + bias]


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bilinear(backend, device, dtype, size):
    matches_float64(functional.bilinear, reference.bilinear, tensors(*size, dtype=dtype, device=device), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_bilinear_of_several_blocks(backend, device, dtype, size):
    if backend == "reference" or pylayers.backends()[backend].note.startswith("interpreted"):
        pytest.skip("no blocks, or too many programs")
    matches_float64(functional.bilinear, reference.bilinear, tensors(*size, dtype=dtype, device=device), backend)


@every_backend
def test_bilinear_without_bias(backend, device):
    matches_float64(functional.bilinear, reference.bilinear, tensors(9, 12, 10, 8, bias=False, device=device), backend)


@every_backend
@every_layout
def test_bilinear_strides(backend, device, layout):
    x1, x2, weight, bias = tensors(6, 12, 10, 8, device=device)
    call, exact = functional.bilinear, reference.bilinear
    matches_float64(call, exact, (layout(x1), x2, weight, bias), backend)
    matches_float64(call, exact, (x1, layout(x2), weight, bias), backend)
    matches_float64(call, exact, (x1, x2, layout(weight.view(96, 10)).view(8, 12, 10), bias), backend)
    matches_float64(call, exact, (x1, x2, weight.transpose(0, 2).contiguous().transpose(0, 2), bias[:1].expand(8)), backend)


@every_backend
def test_bilinear_any_number_of_dimensions(backend, device):
    _, _, weight, bias = tensors(1, 12, 10, 8, device=device)
    for shape in ((), (5,), (2, 3), (2, 3, 4)):
        x1, x2 = normal(*shape, 12, device=device), normal(*shape, 10, device=device, seed=1)
        matches_float64(functional.bilinear, reference.bilinear, (x1, x2, weight, bias), backend)
    expected = torch.nn.functional.bilinear(x1, x2, weight, bias)
    with pylayers.backend(backend):
        torch.testing.assert_close(functional.bilinear(x1, x2, weight, bias), expected)


@every_backend
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(0, 4, 3, 2), (2, 0, 3, 4), (2, 4, 0, 3), (2, 3, 4, 0)], ids=str)
def test_bilinear_empty(backend, device, size, bias):
    rows, in1, in2, out = size
    shapes = ((rows, in1), (rows, in2), (out, in1, in2), (out,))[: 3 + bias]
    leaves = [torch.ones(shape, device=device, requires_grad=True) for shape in shapes]
    with pylayers.backend(backend):
        y = functional.bilinear(*leaves)
        y.sum().backward()
    assert torch.equal(y.detach(), torch.full((rows, out), float(bias), device=device))
    assert all(torch.equal(one.grad, torch.zeros_like(one)) for one in leaves[:3])
    if bias:
        assert torch.equal(leaves[3].grad, torch.full((out,), float(rows), device=device))


@every_backend
@pytest.mark.parametrize("out", [3, 40])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (1, 2), (0, 1)], ids=str)
def test_bilinear_only_the_gradients_asked_for(backend, device, wanted, out):
    leaves = tensors(7, 12, 35, out, device=device)
    for i, one in enumerate(leaves):
        one.requires_grad_(i in wanted)
    with pylayers.backend(backend):
        functional.bilinear(*leaves).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in leaves]
    reference.bilinear(*exact).square().sum().backward()
    for i, (one, other) in enumerate(zip(leaves, exact, strict=True)):
        assert (one.grad is not None) == (i in wanted)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=1e-4)


@every_dtype
@pytest.mark.parametrize("size", [(300, 96, 80, 90), (300, 96, 200, 5), (1, 200, 100, 40)], ids=str)
def test_bilinear_does_not_depend_on_the_number_of_threads(dtype, size):
    leaves = [one.requires_grad_() for one in tensors(*size, dtype=dtype)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = functional.bilinear(*leaves)
            found.append((y, *torch.autograd.grad(y.sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_bilinear_saves_its_inputs_alone():
    saved, leaves = [], [one.requires_grad_() for one in tensors(7, 12, 10, 8)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        functional.bilinear(*leaves)
    assert saved == [one.data_ptr() for one in leaves[:3]]


def test_bilinear_needs_no_more_memory_than_torch():
    from pylayers.benchmarks.memory import peak_bytes

    leaves = [one.requires_grad_() for one in tensors(256, 48, 48, 48)]

    def step(call):
        return peak_bytes(lambda: torch.autograd.grad(call(*leaves).sum(), leaves), torch.device("cpu"))

    ours = step(functional.bilinear)
    assert ours <= step(torch.nn.functional.bilinear)
    # The gradients, the gradient of the output, and no more than the inputs and the weight again.
    assert ours <= 2 * sum(one.nbytes for one in leaves) + 4 * leaves[0].nbytes


def test_bilinear_derivatives():
    harness.derivatives_hold(functional.bilinear, tensors(3, 4, 2, 3))


def test_bilinear_transforms():
    harness.transforms_match(functional.bilinear, reference.bilinear, tensors(2, 3, 2, 2))
    x1, x2, weight, bias = (one.double() for one in tensors(4, 3, 2, 2))
    rows = torch.func.vmap(functional.bilinear, in_dims=(0, 0, None, None))(x1, x2, weight, bias)
    torch.testing.assert_close(rows, functional.bilinear(x1, x2, weight, bias))


def test_bilinear_compiles():
    harness.compiles(lambda x, weight, bias: functional.bilinear(x, x + 1, weight, bias) * 2, tensors(3, 4, 4, 5)[:1] + tensors(3, 4, 4, 5)[2:])


@pytest.mark.parametrize("out", [3, 40])
def test_bilinear_opcheck(out):
    leaves = [one.requires_grad_() for one in tensors(3, 4, 35, out)]
    x1, x2, weight, bias = (one.detach() for one in leaves)
    harness.passes_opcheck("bilinear", *leaves)
    harness.passes_opcheck("bilinear_forward", x1, x2, weight, bias)
    grad = normal(3, out)
    harness.passes_opcheck("bilinear_backward", grad, x1, x2, weight, [True, True, True, True])
    harness.passes_opcheck("bilinear_backward", grad, x1, x2, weight.requires_grad_(), [True, False, True, False])


def test_bilinear_autocast():
    x1, x2, weight, bias = tensors(3, 4, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.bilinear(x1.bfloat16(), x2, weight, bias).dtype == torch.float32
        assert functional.bilinear(*(one.bfloat16() for one in (x1, x2, weight, bias))).dtype == torch.bfloat16


def test_bilinear_module():
    for arguments in ((4, 5, 6), (4, 5, 6, False)):
        torch.manual_seed(0)
        ours = pylayers.Bilinear(*arguments)
        torch.manual_seed(0)
        theirs = torch.nn.Bilinear(*arguments)
        harness.state_exchanges(ours, theirs)
        assert ours.extra_repr() == theirs.extra_repr()
        x1, x2 = normal(3, 4), normal(3, 5)
        torch.testing.assert_close(ours(x1, x2), theirs(x1, x2))
    harness.keeps_the_module_contract(lambda **kind: OfOneInput(4, 4, 5, **kind), normal(3, 4))
    with pytest.raises(ValueError, match="Bilinear: in1_features must be above 0"):
        pylayers.Bilinear(0, 3, 2)


class OfOneInput(pylayers.Bilinear):
    """As the harness calls modules."""

    def forward(self, x):
        return super().forward(x, x)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, z, w, b: functional.bilinear(x, 3, w), TypeError, "bilinear: input2 must be a Tensor, got int"),
        (lambda x, z, w, b: functional.bilinear(z, z, w), ValueError, "the last dimension of input1 must be 3 (in1_features of weight), got shape [2, 4]"),
        (lambda x, z, w, b: functional.bilinear(x, x, w), ValueError, "the last dimension of input2 must be 4 (in2_features of weight), got shape [2, 3]"),
        (lambda x, z, w, b: functional.bilinear(x, z[:1], w), ValueError, "input2 must have the leading dimensions of input1 [2], got shape [1, 4]"),
        (lambda x, z, w, b: functional.bilinear(x, z[None], w), ValueError, "input2 must have the leading dimensions of input1 [2], got shape [1, 2, 4]"),
        (lambda x, z, w, b: functional.bilinear(x[0, 0], z[0, 0], w), ValueError, "got shape []"),
        (lambda x, z, w, b: functional.bilinear(x, z, w[0]), ValueError, "weight must have shape (out_features, in1_features, in2_features), got [3, 4]"),
        (lambda x, z, w, b: functional.bilinear(x, z, w, b[:2]), ValueError, "bias must have shape (5,) (out_features of weight), got [2]"),
        (lambda x, z, w, b: functional.bilinear(x, z.half(), w), TypeError, "input2 must have the dtype of input1 (Float), got Half"),
        (lambda x, z, w, b: functional.bilinear(x, z, w.double()), TypeError, "weight must have the dtype of input1 (Float), got Double"),
        (lambda x, z, w, b: functional.bilinear(x.int(), z, w), TypeError, "input1 must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x, z, w, b: functional.bilinear(x, z, w.to("meta")), RuntimeError, "weight must be on the device of input1 (cpu), got meta"),
    ],
)
def test_bilinear_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3, 4), torch.ones(5))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
