import inspect

import harness
import pytest
import torch
import torch.nn.functional as F
from harness import every_backend, every_dtype, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.check import DTYPES

import pylayers

# Groups, shape: none and several further dimensions, one number a group, multiples of nothing and of everything, groups around the
# sizes at which kernels change their path, and more channels than a block has threads for.
SIZES = [
    (1, (2, 1)), (3, (5, 6)), (4, (3, 64)), (2, (3, 4, 5)), (5, (1, 10, 7, 9)), (4, (2, 16, 8, 8)), (3, (2, 9, 3, 2, 5)),
    (2, (2, 40, 8, 8)), (2, (1, 40, 12, 17)), (1, (2, 1100)), (7, (1, 70, 6)), (1, (1, 64, 16, 17)),
]  # fmt: skip
OF_EVERY_DTYPE = [(4, (3, 64)), (5, (1, 10, 7, 9)), (2, (2, 40, 8, 8))]
CASES = [(dtype, *one) for dtype in DTYPES for one in (SIZES if dtype == torch.float32 else OF_EVERY_DTYPE)]
LAST = [one for one in CASES if len(one[2]) in (4, 5)]


def calls(groups, eps=1e-5, activation=None):
    def of(call):
        return lambda x, weight=None, bias=None: call(x, groups, weight, bias, eps, activation=activation)

    return of(functional.group_norm), of(reference.group_norm)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def tensors(shape, **kind):
    return normal(*shape, **kind), normal(shape[1], **kind), normal(shape[1], seed=1, **kind)


@every_backend
@pytest.mark.parametrize("dtype,groups,shape", CASES, ids=str)
def test_group_norm(backend, device, dtype, groups, shape):
    harness.matches_float64(*calls(groups), tensors(shape, dtype=dtype, device=device), backend)


@every_backend
@pytest.mark.parametrize("dtype,groups,shape", LAST, ids=str)
def test_group_norm_channels_last(backend, device, dtype, groups, shape):
    x, weight, bias = tensors(shape, dtype=dtype, device=device)
    harness.matches_float64(*calls(groups), (channels_last(x), weight, bias), backend)


@every_backend
def test_group_norm_of_unequal_shares(backend, device):
    """A group too long to be held, cut into shares that have not the same size, and not the same mean."""
    x = normal(1, 1, 16388, device=device) + torch.linspace(-2, 2, 16388, device=device)
    harness.matches_float64(*calls(1), (x,), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_group_norm_silu(backend, device, dtype, last):
    for groups, shape in ((2, (3, 4, 5, 3)), (4, (2, 32, 8, 8)), (2, (3, 8, 1, 1))):
        x, weight, bias = tensors(shape, dtype=dtype, device=device)
        inputs = (channels_last(x) if last else x), weight, bias
        harness.matches_float64(*calls(groups, activation="silu"), inputs, backend)
    harness.matches_float64(*calls(2, activation="silu"), inputs[:1], backend)


@every_backend
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("given", [1, 2, 3])
def test_group_norm_eps_and_parameters(backend, device, given, last):
    for shape in ((3, 12, 4, 5), (1, 12, 64, 40)):
        x, weight, bias = tensors(shape, device=device)
        inputs = (channels_last(x) if last else x, weight, bias)[:given]
        harness.matches_float64(*calls(3, eps=0.5), inputs, backend)
    ours, exact = ((lambda a, b, call=call: call(a, 3, None, b)) for call in (functional.group_norm, reference.group_norm))
    harness.matches_float64(ours, exact, (inputs[0], bias), backend)


@every_backend
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (2, 8, 16, 16), (1, 8, 100, 101), (2, 4, 96, 96)], ids=str)
def test_group_norm_far_from_zero(backend, device, shape, last):
    """The mean is large beside the deviation from it, and the first position is far from the others."""
    x = normal(*shape, device=device) + 1000
    x[:, :, 0, 0] += 100
    x = channels_last(x) if last else x
    exact = F.group_norm(x.double(), 2)
    with pylayers.backend(backend):
        y = functional.group_norm(x, 2)
    assert (y - exact).abs().max() < 2e-3


@every_backend
def test_group_norm_strides(backend, device):
    """Some of the channels, every other position, one input for all, and what lies anyhow."""
    weight, bias = normal(16, 2, device=device)[::2].unbind(1)
    big = normal(3, 16, 8, 10, device=device)
    views = [
        big[:, :8], big[:, 8:], big[:, ::2], channels_last(big)[:, :8], big[:, :8, :, ::2], channels_last(big)[:, :8, ::2],
        big[:1, :8].expand(3, 8, 8, 10), big[:, :8].transpose(2, 3), big[:, :8].flatten(2)[:, :, 1:],
        big[:, :8, 0, 0], big[:2, :8, :, :1].to(memory_format=torch.channels_last),
    ]  # fmt: skip
    for view in views:
        harness.matches_float64(*calls(2), (view, weight, bias), backend)


@every_backend
@every_dtype
def test_group_norm_misaligned(backend, device, dtype):
    memory = normal(2 * 8 * 64 + 1, dtype=dtype, device=device)
    x, weight = memory[1:].view(2, 8, 8, 8), normal(9, dtype=dtype, device=device)[1:]
    for one in (x, memory[1:].view(2, 8, 8, 8).permute(0, 3, 1, 2)):
        harness.matches_float64(*calls(2), (one, weight, weight.flip(0)), backend)


@pytest.mark.parametrize("backend,device", [pair for pair in harness.RUNNABLE if pair[0] != "reference"])
@pytest.mark.parametrize("moved", [False, True], ids=["as input", "another"])
def test_group_norm_keeps_the_memory_format(backend, device, moved):
    for shape, groups in (((2, 6, 4, 5), 3), ((2, 6, 3, 4, 5), 3)):
        x = channels_last(normal(*shape, device=device)).requires_grad_()
        with pylayers.backend(backend):
            y = functional.group_norm(x, groups)
            y.backward(torch.randn(shape, device=device) if moved else torch.randn_like(y))
        assert y.stride() == x.stride() == F.group_norm(x, groups).stride()
        assert x.grad.stride() == x.stride()
    first = normal(2, 6, 4, 5, device=device)
    with pylayers.backend(backend):
        assert functional.group_norm(first, 3).is_contiguous() and functional.group_norm(first.transpose(2, 3), 3).is_contiguous()


@every_backend
@pytest.mark.parametrize("shape", [(0, 6), (0, 6, 4, 4), (2, 6, 0), (2, 6, 0, 3)], ids=str)
def test_group_norm_empty(backend, device, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight, bias = (torch.ones(6, device=device, requires_grad=True) for _ in range(2))
    with pylayers.backend(backend):
        y = functional.group_norm(x, 3, weight, bias)
        y.sum().backward()
    assert y.shape == x.grad.shape == torch.Size(shape)
    assert torch.equal(weight.grad, torch.zeros_like(weight)) and torch.equal(bias.grad, torch.zeros_like(bias))


@every_backend
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("wanted", range(3), ids=["input", "weight", "bias"])
def test_group_norm_only_the_gradient_asked_for(backend, device, wanted, activation, last):
    x, weight, bias = tensors((3, 6, 4, 4), device=device)
    inputs = [channels_last(x) if last else x, weight, bias]
    ours, plain = calls(2, activation=activation)
    inputs[wanted].requires_grad_()
    with pylayers.backend(backend):
        ours(*inputs).square().sum().backward()
    exact = [one.detach().double().requires_grad_() for one in inputs]
    plain(*exact).square().sum().backward()
    torch.testing.assert_close(inputs[wanted].grad.double(), exact[wanted].grad, rtol=1e-5, atol=1e-4)
    assert [one.grad is not None for one in inputs] == [i == wanted for i in range(3)]


@every_backend
def test_group_norm_of_one_number_has_no_gradient(backend, device):
    x = normal(4, 6, device=device, seed=3).requires_grad_()
    with pylayers.backend(backend):
        functional.group_norm(x, 6, normal(6, device=device)).backward(normal(4, 6, device=device))
    assert x.grad.abs().max() <= 1e-4 and torch.isfinite(x.grad).all()


def test_group_norm_saves_nothing_without_grad():
    x, weight, bias = tensors((4, 8, 3))
    with torch.no_grad():
        assert functional.group_norm(x.requires_grad_(), 2, weight, bias).grad_fn is None
    assert not functional.group_norm(x.detach(), 2, weight, bias).requires_grad


@pytest.mark.parametrize("activation", [None, "silu"])
def test_group_norm_derivatives(activation):
    harness.derivatives_hold(calls(2, 1e-3, activation)[0], tensors((2, 4, 3)))
    harness.derivatives_hold(calls(2, 1e-3, activation)[0], (channels_last(normal(2, 4, 2, 2)),))


@pytest.mark.parametrize("activation", [None, "silu"])
def test_group_norm_transforms(activation):
    harness.transforms_match(*calls(2, activation=activation), tensors((3, 4, 2)))


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_group_norm_compiles(last):
    x, weight, bias = tensors((4, 6, 3, 5))
    call = calls(3, activation="silu")[0]
    harness.compiles(lambda a, w, b: call(a, w, b) * 2, (channels_last(x) if last else x, weight, bias))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_group_norm_opcheck(grad, last):
    x, weight, bias = tensors((3, 8, 6, 2))
    x = channels_last(x) if last else x
    x, weight, bias = (one.requires_grad_(grad) for one in (x, weight, bias))
    harness.passes_opcheck("group_norm", x, 4, weight, bias, 1e-5, "silu")
    harness.passes_opcheck("group_norm", x, 1)
    harness.passes_opcheck("group_norm_forward", x.detach(), weight.detach(), None, 4, 1e-5, 0)
    statistics = torch.ones(3, 4), torch.ones(3, 4)
    harness.passes_opcheck("group_norm_backward", x, x, weight, bias, *statistics, 4, 1e-5, 4, [True, True, True])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_group_norm_autocast(dtype):
    ours, theirs = pylayers.GroupNorm(2, 8), torch.nn.GroupNorm(2, 8)
    for x in (normal(3, 8, 5, dtype=dtype), normal(3, 8, 5)):
        with torch.autocast("cpu", dtype):
            assert ours(x).dtype == theirs(x).dtype == x.dtype
            torch.testing.assert_close(ours(x), theirs(x))


HAS_BIAS = "bias" in inspect.signature(torch.nn.GroupNorm).parameters  # from torch 2.12 or 2.13 on, as a keyword


def test_group_norm_module():
    for arguments in ((2, 16), (4, 16, 1e-3), (16, 16, 1e-5, False), (1, 16, 1e-5, True, "cpu", torch.float64)):
        ours, theirs = pylayers.GroupNorm(*arguments), torch.nn.GroupNorm(*arguments)
        harness.state_exchanges(ours, theirs)
        assert not HAS_BIAS or ours.extra_repr() == theirs.extra_repr()
        x = normal(7, 16, 3, dtype=torch.float64 if len(arguments) > 4 else torch.float32)
        torch.testing.assert_close(ours(x), theirs(x))
    harness.keeps_the_module_contract(lambda **kind: pylayers.GroupNorm(2, 16, **kind), normal(3, 16, 4))
    silu = pylayers.GroupNorm(4, 16, activation="silu")
    torch.testing.assert_close(silu(x.float()), F.silu(F.group_norm(x.float(), 4)))
    assert silu.extra_repr().endswith("bias=True, activation='silu'")


def test_group_norm_module_without_bias():
    ours = pylayers.GroupNorm(2, 16, bias=False)
    assert list(ours.state_dict()) == ["weight"] and ours.bias is None
    if HAS_BIAS:
        theirs = torch.nn.GroupNorm(2, 16, bias=False)
        harness.state_exchanges(ours, theirs)
        assert ours.extra_repr() == theirs.extra_repr()


@pytest.mark.parametrize("groups,channels", [(3, 16), (0, 16), (-2, 16)])
def test_group_norm_module_groups(groups, channels):
    with pytest.raises(ValueError, match=f"^GroupNorm: num_channels must be divisible by num_groups, .* got {channels} and {groups}$"):
        pylayers.GroupNorm(groups, channels)


def test_group_norm_module_activation():
    with pytest.raises(ValueError, match="^GroupNorm: activation must be None or 'silu', got 'relu'$"):
        pylayers.GroupNorm(2, 4, activation="relu")


def test_lazy_group_norm_channels():
    with pytest.raises(ValueError, match=r"^LazyGroupNorm: num_groups \(3\) must divide the channels, got 8$"):
        pylayers.LazyGroupNorm(3)(normal(2, 8, 4))


X = torch.ones(2, 6, 3)


@pytest.mark.parametrize(
    "arguments,options,error,sentence",
    [
        (([1.0], 1), {}, TypeError, "group_norm: input must be a Tensor, got list"),
        ((torch.ones(4), 2), {}, ValueError, "input must have at least the two dimensions batch and channels, got shape [4]"),
        ((X, 4), {}, ValueError, "num_groups must be positive and divide the channels of input (6), got 4"),
        ((X, 0), {}, ValueError, "num_groups must be positive and divide the channels of input (6), got 0"),
        ((X, 2, torch.ones(4)), {}, ValueError, "weight must have shape [6] (the channels of input), got [4]"),
        ((X, 2, None, torch.ones(6, 1)), {}, ValueError, "bias must have shape [6] (the channels of input), got [6, 1]"),
        ((X, 2, torch.ones(6).double()), {}, TypeError, "weight must have the dtype of input (Float), got Double"),
        ((X.int(), 2), {}, TypeError, "input must be float64, float32, float16 or bfloat16, got Int"),
        ((X, 2, torch.ones(6, device="meta")), {}, RuntimeError, "weight must be on the device of input (cpu)"),
        ((X, 2), {"activation": "relu"}, ValueError, "activation must be None or 'silu', got 'relu'"),
        ((torch.ones(1, 6), 6), {}, ValueError, "a group of a single input must have more than one value, got shape [1, 6]"),
        ((X, 2, None, None, "small"), {}, TypeError, "group_norm: the arguments must be"),
    ],
)
def test_group_norm_bad_input(arguments, options, error, sentence):
    with pytest.raises(error) as raised:
        functional.group_norm(*arguments, **options)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
