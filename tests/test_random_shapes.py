"""Shapes, strides and dtypes that nobody thought of."""

import math
from functools import partial

import harness
import pytest
import torch
from harness import nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.check import DTYPES
from pylayers.init import two_sided_uniform_

import pylayers

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

BACKENDS = [pair for pair in harness.RUNNABLE if pair[0] not in ("reference", "triton")]
few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tensors(draw, device: str, dtype: torch.dtype, shape=None):
    """A tensor of some shape that lies in memory in some way."""
    shape = shape or draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 2))) for _ in shape]
    start = draw(st.integers(0, 3))
    held = [(shape[axis] + start) * steps[axis] for axis in order]
    memory = normal(*held, dtype=dtype, device=device, seed=draw(st.integers(0, 99)))
    view = memory.permute([order.index(axis) for axis in range(len(shape))])
    return view[tuple(slice(start * step, (start + size) * step, step) for size, step in zip(shape, steps, strict=True))]


def random_test(body, **bound):
    """A test from body(draw, tensor) → (function, reference, inputs), for every backend that is fast enough."""

    @pytest.mark.parametrize("backend,device", BACKENDS, ids=[pair[0] for pair in BACKENDS])
    @given(data=st.data())
    @few
    def test(backend, device, data):
        dtype = data.draw(st.sampled_from(DTYPES))
        harness.matches_float64(*body(data.draw, lambda shape=None: data.draw(tensors(device, dtype, shape))), backend, **bound)

    return test


@random_test
def test_rms_norm(draw, tensor):
    x = tensor()
    shape = tuple(x.shape[-draw(st.integers(1, x.dim())) :])
    ours, exact = (lambda a, w, call=call: call(a, shape, w) for call in (functional.rms_norm, reference.rms_norm))
    return ours, exact, (x, tensor(shape))


@random_test
def test_layer_norm(draw, tensor):
    x = tensor()
    shape = tuple(x.shape[-draw(st.integers(1, x.dim())) :])
    assume(math.prod(shape) > 2)  # two numbers become -1 and 1, and their gradient is what rounding leaves
    ours, exact = (lambda a, w, b, call=call: call(a, shape, w, b) for call in (functional.layer_norm, reference.layer_norm))
    return ours, exact, (x, tensor(shape), tensor(shape))


@random_test
def test_group_norm(draw, tensor):
    each, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    x = tensor((draw(st.integers(2, 3)), each * groups, *draw(st.lists(st.integers(1, 9), max_size=3))))
    activation = draw(st.sampled_from((None, "silu")))
    if x.dim() == 4 and draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    calls = functional.group_norm, reference.group_norm
    ours, exact = (lambda a, w, b, call=call: call(a, groups, w, b, activation=activation) for call in calls)
    return ours, exact, (x, tensor((each * groups,)), tensor((each * groups,)))


@random_test
def test_add_rms_norm(draw, tensor):
    x = tensor()
    shape = tuple(x.shape[-draw(st.integers(1, x.dim())) :])
    ours, exact = (lambda a, r, w, call=call: call(a, r, shape, w) for call in (functional.add_rms_norm, reference.add_rms_norm))
    return ours, exact, (x, tensor(tuple(x.shape)), tensor(shape))


@random_test
def test_add_layer_norm(draw, tensor):
    x = tensor()
    shape = tuple(x.shape[-draw(st.integers(1, x.dim())) :])
    assume(math.prod(shape) > 2)  # two numbers become -1 and 1, and their gradient is what rounding leaves
    calls = functional.add_layer_norm, reference.add_layer_norm
    ours, exact = (lambda a, r, w, b, call=call: call(a, r, shape, w, b) for call in calls)
    return ours, exact, (x, tensor(tuple(x.shape)), tensor(shape), tensor(shape))


@random_test
def test_gate(draw, tensor):
    name, gate = draw(st.sampled_from(["swiglu", "geglu", "reglu", "relu_squared"])), tensor()
    inputs = (gate,) if name == "relu_squared" else (gate, tensor(tuple(gate.shape)))
    return getattr(functional, name), getattr(reference, name), inputs


@random_test
def test_softmax(draw, tensor):
    name, x = draw(st.sampled_from(["softmax", "log_softmax"])), tensor()
    dim = draw(st.integers(-x.dim(), x.dim() - 1))
    ours, exact = (lambda a, call=getattr(module, name): call(a, dim) for module in (functional, reference))
    return ours, exact, (x,)


@random_test
def test_cross_entropy(draw, tensor):
    x = tensor()
    classes = x.shape[0 if x.dim() == 1 else 1]
    row = torch.arange(x.numel() // classes, device=x.device)
    target = torch.where(row % 4 == 1, -100, row * 7 % classes).view(() if x.dim() == 1 else (x.shape[0], *x.shape[2:]))
    options = {"label_smoothing": draw(st.sampled_from([0.0, 0.2])), "softcap": draw(st.sampled_from([None, 2.0])), "reduction": "sum"}
    calls = functional.cross_entropy, reference.cross_entropy
    ours, exact = (lambda a, call=call: call(a, target, **options) for call in calls)
    return ours, exact, (x,)


@random_test
def test_pointwise_loss(draw, tensor):
    x = tensor()
    name, reduction = draw(st.sampled_from(["mse_loss", "binary_cross_entropy_with_logits", "kl_div"])), draw(st.sampled_from(["none", "sum"]))

    def on(module):
        def function(a):
            target = (torch.arange(a.numel(), device=a.device) % 5 / 4).view(a.shape).to(a.dtype)
            return getattr(module, name)(a, target, reduction=reduction)

        return function

    return on(functional), on(reference), (x,)


@random_test
def test_centered(draw, tensor):
    x = tensor()
    if draw(st.booleans()):
        first = draw(st.integers(0, x.dim() - 1))
        dim = draw(st.sampled_from([None, tuple(range(first, draw(st.integers(first + 1, x.dim()))))]))
        ours, exact = (lambda a, call=call: call(a, dim) for call in (functional.center, reference.center))
        return ours, exact, (x,)
    dim, parameters = draw(st.integers(-x.dim(), x.dim() - 1)), (tensor(x.shape[-1:]), tensor(x.shape[-1:]))
    ours, exact = (lambda *three, call=call: call(*three, dim) for call in (functional.centered_affine, reference.centered_affine))
    return ours, exact, (x, *parameters)


@random_test
def test_halve_until(draw, tensor):
    threshold = draw(st.sampled_from([1e-3, 0.7, 1.0, 300.0]))
    ours, exact = (lambda x, call=call: call(x, threshold) for call in (functional.halve_until, reference.halve_until))
    return ours, exact, (tensor(),)


@random_test
def test_dropout_add(draw, tensor):
    x, p, seed = tensor(), draw(st.floats(0, 1)), draw(st.integers(0, 2**64 - 1))
    ours, exact = (
        lambda *two, call=call: call(*two, p, generator=harness.seeded(seed=seed))
        for call in (functional.dropout_add, reference.dropout_add)
    )
    return ours, exact, (x, tensor(tuple(x.shape)))


@random_test
def test_linear(draw, tensor):
    x, dim = tensor(), draw(st.integers(1, 40))
    activation = draw(st.sampled_from([None, "relu", "gelu", "silu", "tanh"]))
    ours, exact = (lambda *three, call=call: call(*three, activation=activation) for call in (functional.linear, reference.linear))
    return ours, exact, (x, tensor((dim, x.shape[-1])), tensor((dim,)))


@pytest.mark.parametrize("backend,device", BACKENDS, ids=[pair[0] for pair in BACKENDS])
@given(data=st.data())
@few
def test_two_sided_uniform(backend, device, data):
    """Any view gets the numbers of the definition, and nothing around it is written."""
    x = data.draw(tensors(device, data.draw(st.sampled_from(DTYPES))))
    seed, low = data.draw(st.integers(0, 2**64 - 1)), data.draw(st.floats(0, 10))
    expected = reference.two_sided_uniform_(x.cpu().clone(), low, 11.0, generator=harness.seeded(seed=seed))
    memory = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    before, inside = memory.clone(), torch.zeros_like(memory, dtype=torch.bool)
    inside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    with pylayers.backend(backend):
        two_sided_uniform_(x, low, 11.0, generator=harness.seeded(seed=seed))
    assert torch.equal(x.cpu(), expected) and torch.equal(memory[~inside], before[~inside])


@partial(random_test, long_sums=True)
def test_bilinear(draw, tensor):
    leading = draw(st.lists(st.integers(1, 5), max_size=2).map(tuple))
    in1, in2, out = (draw(st.integers(1, 40)) for _ in range(3))
    inputs = (tensor((*leading, in1)), tensor((*leading, in2)), tensor((out, in1, in2)), tensor((out,)))
    return functional.bilinear, reference.bilinear, inputs


@partial(random_test, long_sums=True)
def test_tensor_reduction(draw, tensor):
    leading, dim, out = draw(st.lists(st.integers(1, 5), max_size=2).map(tuple)), draw(st.integers(1, 30)), draw(st.integers(1, 40))
    symmetric = draw(st.booleans())
    weight = tensor((out, dim * (dim + 1) // 2) if symmetric else (out, dim, dim))
    ours, exact = (
        lambda *three, call=call: call(*three, symmetric=symmetric)
        for call in (functional.tensor_reduction, reference.tensor_reduction)
    )
    return ours, exact, (tensor((*leading, dim)), weight, tensor((out,)))


@random_test
def test_leading_fourier(draw, tensor):
    x = tensor()
    dim, norm = draw(st.integers(-x.dim(), x.dim() - 1)), draw(st.sampled_from(["backward", "ortho", "forward"]))
    n_coeff = draw(st.sampled_from([None, 1, x.shape[dim] // 2 + 1]))
    ours, exact = (lambda a, call=call: call(a, n_coeff, dim, norm) for call in (functional.leading_fourier, reference.leading_fourier))
    return ours, exact, (x,)


@random_test
def test_rotary(draw, tensor):
    batch, tokens, heads, key_heads, head_dim = (draw(st.integers(1, most)) for most in (3, 9, 5, 5, 40))
    options = {"interleaved": draw(st.booleans()), "heads_first": draw(st.booleans())}
    order = (0, 2, 1, 3) if options["heads_first"] else (0, 1, 2, 3)
    shapes = [tuple((batch, tokens, count, head_dim)[axis] for axis in order) for count in (heads, key_heads)]
    q, k = (tensor(shape) for shape in shapes)
    angles = normal(20, draw(st.integers(0, head_dim // 2)), device=q.device)
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(batch, tokens), (1, tokens), (tokens,)]))
        options["positions"] = normal(*shape, device=q.device).mul(7).abs().clamp(max=19).long()
    ours, exact = (
        lambda a, b, call=call: call(a, b, angles.cos(), angles.sin(), **options) for call in (functional.rotary, reference.rotary)
    )
    return ours, exact, (q, k)
