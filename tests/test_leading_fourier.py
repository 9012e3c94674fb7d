import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

NORMS = ("backward", "ortho", "forward")
# [rows, samples]
SIZES = [(1, 1), (3, 2), (4, 3), (5, 64), (33, 1001), (2, 4096), (70, 6)]
# What is asked for, by the number of samples.
ASKED = {
    "the leading half": lambda samples: {},
    "onesided": lambda samples: {"onesided": True},
    "all by number": lambda samples: {"n_coeff": samples // 2 + 1},
    "one": lambda samples: {"n_coeff": 1},
    "some": lambda samples: {"n_coeff": max(samples // 3, 1)},
}
every_request = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())


def asking(call, **kind):
    return lambda x: call(x, **kind)


def both(**kind):
    return asking(functional.leading_fourier, **kind), asking(reference.leading_fourier, **kind)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_leading_fourier(backend, device, dtype, size):
    harness.matches_float64(*both(), (normal(*size, dtype=dtype, device=device),), backend)


@every_backend
@every_request
@pytest.mark.parametrize("samples", [1, 2, 9, 16])
def test_leading_fourier_number_of_coefficients(backend, device, asked, samples):
    harness.matches_float64(*both(**asked(samples)), (normal(5, samples, device=device),), backend)


@every_backend
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("samples", [7, 12])
def test_leading_fourier_norms(backend, device, norm, samples):
    harness.matches_float64(*both(norm=norm, onesided=True), (normal(5, samples, device=device),), backend)


@every_backend
@every_layout
def test_leading_fourier_strides(backend, device, layout):
    harness.matches_float64(*both(), (layout(normal(6, 32, device=device)),), backend)


@every_backend
@pytest.mark.parametrize("dim", [0, 1, -2, 2, -1])
def test_leading_fourier_any_dimension(backend, device, dim):
    harness.matches_float64(*both(dim=dim, onesided=True), (normal(4, 5, 6, device=device),), backend)
    harness.matches_float64(*both(dim=0), (normal(11, device=device),), backend)


@every_backend
def test_leading_fourier_of_gradients_that_lie_badly(backend, device):
    """Conjugated, expanded, with steps between the coefficients."""
    x = normal(6, 9, device=device).requires_grad_()
    full = torch.complex(normal(5, 6, device=device), normal(5, 6, device=device, seed=1))
    stepped = torch.stack([full.t(), full.t()], 2)[:, :, 0]
    for grad in (full.t(), full.t().conj(), full[:, :1].t().expand(6, 5), stepped):
        with pylayers.backend(backend):
            (found,) = torch.autograd.grad(functional.leading_fourier(x), x, grad)
        (expected,) = torch.autograd.grad(reference.leading_fourier(x), x, grad)
        torch.testing.assert_close(found, expected)


@every_backend
@pytest.mark.parametrize("shape", [(0, 8), (3, 0, 5)], ids=str)
def test_leading_fourier_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    with pylayers.backend(backend):
        y = functional.leading_fourier(x)
        y.real.sum().backward()
    assert y.shape == (*shape[:-1], (shape[-1] + 1) // 2) and y.dtype == torch.complex64
    assert x.grad.shape == x.shape


def test_leading_fourier_halves():
    """Of 4 samples coefficients 0 and 1, of 5 samples 0, 1 and 2; onesided has the real one in the middle too."""
    x = torch.tensor([1.0, 2.0, 0.0, -1.0])
    assert torch.equal(functional.leading_fourier(x), torch.tensor([2.0 + 0j, 1.0 - 3j]))
    assert torch.equal(functional.leading_fourier(x, onesided=True), torch.tensor([2.0 + 0j, 1.0 - 3j, 0.0 + 0j]))
    for samples, half, determining in ((1, 1, 1), (2, 1, 2), (5, 3, 3), (6, 3, 4)):
        assert functional.leading_fourier(normal(samples)).shape == (half,)
        assert functional.leading_fourier(normal(samples), onesided=True).shape == (determining,)


@every_dtype
def test_leading_fourier_is_that_of_torch(dtype):
    x = normal(3, 24, dtype=dtype)
    wide = x if dtype == torch.float64 else x.float()
    y = functional.leading_fourier(x)
    assert y.dtype == (torch.complex128 if dtype == torch.float64 else torch.complex64)
    assert torch.equal(y, torch.fft.rfft(wide)[..., :12])


def test_leading_fourier_keeps_no_more_than_it_returns():
    """And few coefficients do not keep the memory of all."""
    saved = []
    x = normal(4, 4096).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        few = functional.leading_fourier(x, 16)
    assert saved == []
    assert few.untyped_storage().nbytes() == few.nbytes
    half = functional.leading_fourier(x)
    assert half.untyped_storage().nbytes() == 4 * 2049 * 8, "a view, not a copy"


def test_leading_fourier_without_grad():
    with torch.no_grad():
        assert functional.leading_fourier(normal(4, 8).requires_grad_()).grad_fn is None
    assert not functional.leading_fourier(normal(4, 8)).requires_grad


@pytest.mark.parametrize("samples", [5, 6])
@pytest.mark.parametrize("norm", NORMS)
def test_leading_fourier_derivatives(samples, norm):
    harness.derivatives_hold(asking(functional.leading_fourier, norm=norm, onesided=True), (normal(2, samples),))
    harness.derivatives_hold(asking(functional.leading_fourier, norm=norm, dim=0), (normal(samples, 2),))


def test_leading_fourier_transforms():
    harness.transforms_match(*both(), (normal(2, 5),))
    harness.transforms_match(*both(onesided=True, norm="ortho"), (normal(2, 4),))


def test_leading_fourier_compiles():
    harness.compiles(lambda x: functional.leading_fourier(x) * 2, (normal(4, 6),))
    harness.compiles(lambda x: functional.leading_fourier(x, dim=0, norm="ortho"), (normal(6, 4),))


@pytest.mark.parametrize("grad", [False, True])
def test_leading_fourier_opcheck(grad):
    x = normal(3, 8).requires_grad_(grad)
    harness.passes_opcheck("leading_fourier", x, None, -1, "backward", False)
    harness.passes_opcheck("leading_fourier", x, 2, 0, "ortho", False)
    harness.passes_opcheck("leading_fourier_backward", torch.complex(x, 2 * x)[:, :4], 8, "forward")


def test_leading_fourier_autocast():
    """It has no lower precision: float32 stays float32."""
    x = normal(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.leading_fourier(x)
    assert torch.equal(y, functional.leading_fourier(x))
    assert torch.equal(functional.leading_fourier(x.bfloat16()), functional.leading_fourier(x.bfloat16().float()))


def test_leading_fourier_module():
    layer, x = pylayers.LeadingFourier(), normal(3, 10)
    assert torch.equal(layer(x), torch.fft.rfft(x)[:, :5])
    assert repr(layer) == "LeadingFourier(n_coeff=None, dim=-1, norm='backward', onesided=False)"
    assert torch.equal(pylayers.LeadingFourier(4, 0, "ortho")(x.t()), torch.fft.rfft(x, norm="ortho").t()[:4])
    assert list(layer.state_dict()) == []
    assert torch.equal(torch.nn.Sequential(layer)(x), layer(x))
    assert layer(x.to("meta")).shape == (3, 5)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.leading_fourier([1.0]), TypeError, "leading_fourier: input must be a Tensor, got list"),
        (lambda x: functional.leading_fourier(x.int()), TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        (lambda x: functional.leading_fourier(x.cfloat()), TypeError, "got ComplexFloat"),
        (lambda x: functional.leading_fourier(x, dim=2), ValueError, "dim must name a dimension of input, got 2 for shape [2, 6]"),
        (lambda x: functional.leading_fourier(x[0, 0]), ValueError, "dim must name a dimension of input, got -1 for shape []"),
        (lambda x: functional.leading_fourier(x[:, :0]), ValueError, "input must have samples along dim -1, got shape [2, 0]"),
        (lambda x: functional.leading_fourier(x, 5), ValueError, "n_coeff must be between 1 and 4 (the others are conjugates of these), got 5"),
        (lambda x: functional.leading_fourier(x, 0), ValueError, "n_coeff must be between 1 and 4"),
        (lambda x: functional.leading_fourier(x, 2, onesided=True), ValueError, "n_coeff must be None where onesided is True, got 2"),
        (lambda x: functional.leading_fourier(x, norm="half"), ValueError, "norm must be 'backward', 'ortho' or 'forward', got 'half'"),
        (lambda x: functional.leading_fourier(x, 1.5), TypeError, "leading_fourier: the arguments must be"),
        (lambda x: pylayers.LeadingFourier(norm="half"), ValueError, "LeadingFourier: norm must be 'backward'"),
        (lambda x: pylayers.LeadingFourier(0), ValueError, "LeadingFourier: n_coeff must be at least 1"),
        (lambda x: pylayers.LeadingFourier(3, onesided=True), ValueError, "None where onesided is True, got 3"),
    ],
)
def test_leading_fourier_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 6))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
