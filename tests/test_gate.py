from functools import partial

import harness
import pytest
import torch
import torch.nn.functional as F
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (5, 1024), (1, 20001)]


def tanh(module, name):
    return partial(getattr(module, name), approximate="tanh")


# Name → (of two tensors, its reference, of one tensor's halves, its reference, the activation in eager lines).
GATES = {
    "swiglu": (functional.swiglu, reference.swiglu, functional.swiglu_packed, reference.swiglu_packed, F.silu),
    "geglu": (functional.geglu, reference.geglu, functional.geglu_packed, reference.geglu_packed, F.gelu),
    "geglu_tanh": (
        *(tanh(module, name) for name in ("geglu", "geglu_packed") for module in (functional, reference)),
        partial(F.gelu, approximate="tanh"),
    ),
    "reglu": (functional.reglu, reference.reglu, functional.reglu_packed, reference.reglu_packed, F.relu),
}
every_gate = pytest.mark.parametrize("gate_of", GATES.values(), ids=GATES.keys())


@every_backend
@every_dtype
@every_gate
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gate(backend, device, dtype, gate_of, size):
    ours, exact, *_ = gate_of
    gate, up = (3 * normal(*size, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    harness.matches_float64(ours, exact, (gate, up), backend)


@every_backend
@every_dtype
@every_gate
@pytest.mark.parametrize("size", SIZES[1::2], ids=str)
def test_gate_packed(backend, device, dtype, gate_of, size):
    _, _, ours, exact, _ = gate_of
    packed = normal(size[0], 2 * size[1], dtype=dtype, device=device)
    harness.matches_float64(ours, exact, (packed,), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_relu_squared(backend, device, dtype, size):
    x = 3 * normal(*size, dtype=dtype, device=device)
    harness.matches_float64(functional.relu_squared, reference.relu_squared, (x,), backend)


@every_backend
@every_dtype
@every_layout
def test_gate_strides(backend, device, dtype, layout):
    gate, up = layout(normal(5, 24, dtype=dtype, device=device)), normal(5, 24, dtype=dtype, device=device, seed=1)
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)
    harness.matches_float64(functional.reglu, reference.reglu, (up, gate), backend)
    harness.matches_float64(functional.geglu_packed, reference.geglu_packed, (gate,), backend)
    harness.matches_float64(functional.relu_squared, reference.relu_squared, (gate,), backend)


@every_backend
@every_gate
def test_gate_halves_of_one_tensor(backend, device, gate_of):
    pair, exact, packed_form, _, _ = gate_of
    packed = normal(2, 3, 2 * 20, device=device)
    gate, up = packed.chunk(2, dim=-1)
    harness.matches_float64(pair, exact, (gate, up), backend)
    with pylayers.backend(backend):
        assert torch.equal(pair(gate, up), packed_form(packed))


@every_backend
def test_gate_any_number_of_dimensions(backend, device):
    for shape in ((), (5,), (2, 3, 4, 5)):
        gate, up = (normal(*shape, device=device, seed=seed) for seed in (2, 3))
        harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)
        harness.matches_float64(functional.relu_squared, reference.relu_squared, (gate,), backend)


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0)], ids=str)
def test_gate_empty(backend, device, shape):
    gate, up = (torch.empty(shape, device=device, requires_grad=True) for _ in range(2))
    with pylayers.backend(backend):
        y = functional.geglu(gate, up) + functional.relu_squared(gate)
        y.sum().backward()
        assert functional.swiglu_packed(torch.empty(*shape[:-1], 2 * shape[-1], device=device)).shape == y.shape
    assert y.shape == gate.grad.shape == up.grad.shape == torch.Size(shape)


@every_backend
@every_dtype
@every_gate
def test_gate_far_from_zero(backend, device, dtype, gate_of):
    ours, exact, *_ = gate_of
    gate = torch.tensor([-1e4, -200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0, 1e4], dtype=dtype, device=device)
    harness.matches_float64(ours, exact, (gate, torch.ones_like(gate)), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gate_rounds_to_nearest(backend, device, dtype):
    """Truncation is within the bound on errors; it shows in their mean."""
    if dtype == torch.bfloat16 and pylayers.backends()[backend].note.startswith("interpreted"):
        pytest.skip("Triton's interpreter truncates")
    gate, up = (normal(64, 256, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    with pylayers.backend(backend):
        y = functional.swiglu(gate, up).double()
    exact = reference.swiglu(gate.double(), up.double())
    errors = ((y - exact) / exact)[exact.abs() > 1e-3]
    assert abs(errors.mean()) < 0.05 * torch.finfo(dtype).eps


@every_backend
@every_gate
@pytest.mark.parametrize("wanted", [0, 1], ids=["gate", "up"])
def test_gate_only_the_gradient_asked_for(backend, device, gate_of, wanted):
    ours, exact, *_ = gate_of
    inputs = [normal(7, 40, device=device, seed=seed) for seed in (1, 2)]
    inputs[wanted].requires_grad_()
    with pylayers.backend(backend):
        y = ours(*inputs)
        y.square().sum().backward()
    doubles = [one.detach().double().requires_grad_(one.requires_grad) for one in inputs]
    exact(*doubles).square().sum().backward()
    torch.testing.assert_close(inputs[wanted].grad.double(), doubles[wanted].grad, rtol=1e-5, atol=1e-5)
    assert inputs[1 - wanted].grad is None


def test_gate_kernels_make_only_the_gradient_asked_for():
    gate, up, grad = (normal(4, 8, seed=seed) for seed in range(3))
    for mask in ([True, False], [False, True]):
        made = torch.ops.pylayers.gate_backward(grad, gate, up, 4, mask)
        assert [one.numel() > 0 for one in made] == mask


def test_gate_saves_its_inputs_alone():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        gate, up = (normal(4, 8, seed=seed).requires_grad_() for seed in (0, 1))
        functional.swiglu(gate, up)
        functional.relu_squared(gate)
    assert [one.data_ptr() for one in saved] == [gate.data_ptr(), up.data_ptr(), gate.data_ptr()]


@every_gate
def test_gate_derivatives(gate_of):
    pair, _, packed, _, _ = gate_of
    harness.derivatives_hold(pair, (normal(3, 4), normal(3, 4, seed=1)))
    harness.derivatives_hold(packed, (normal(3, 8),))


def test_relu_squared_derivatives():
    harness.derivatives_hold(functional.relu_squared, (normal(3, 4),))
    harness.transforms_match(functional.relu_squared, reference.relu_squared, (normal(3, 4),))


@every_gate
def test_gate_transforms(gate_of):
    pair, exact, packed, exact_packed, _ = gate_of
    harness.transforms_match(packed, exact_packed, (normal(3, 4),))

    def with_shared_up(call):
        return lambda gate, up: call(gate, up.expand(gate.shape))

    harness.transforms_match(with_shared_up(pair), with_shared_up(exact), (normal(3, 4), normal(4)))


def test_gate_compiles():
    def some(x):  # one of each form: each compiles for seconds
        return torch.cat((functional.swiglu_packed(x), functional.geglu(x, x + 1, "tanh"), functional.relu_squared(x)), -1) * 2

    harness.compiles(some, (normal(4, 6),))


@pytest.mark.parametrize("grad", [False, True])
def test_gate_opcheck(grad):
    gate, up = (normal(3, 8, seed=seed).requires_grad_(grad) for seed in (0, 1))
    for name in ("swiglu", "geglu", "reglu"):
        harness.passes_opcheck(name, gate, up)
        harness.passes_opcheck(f"{name}_packed", gate)
    harness.passes_opcheck("relu_squared", gate)
    harness.passes_opcheck("gate_backward", gate, gate, up, 4, [True, True])
    harness.passes_opcheck("gate_backward", gate, gate, None, 1, [True, False])
    harness.passes_opcheck("gate_packed_backward", gate[:, :4].contiguous(), gate, 2)
    harness.passes_opcheck("gate_forward", gate.detach(), up.detach(), 3)
    harness.passes_opcheck("gate_packed_forward", gate.detach(), 1)


@every_gate
def test_gate_autocast(gate_of):
    pair, *_, activation = gate_of
    gate, up = normal(3, 8, dtype=torch.bfloat16), normal(3, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert pair(gate, gate).dtype == torch.bfloat16
        y = pair(gate, up)
    assert y.dtype == (activation(gate) * up).dtype == torch.float32


def test_gated_mlp():
    torch.manual_seed(0)
    mlp = pylayers.GatedMLP(8, 20, bias=True)
    shapes = {name: tuple(one.shape) for name, one in mlp.state_dict().items()}
    assert shapes == {
        **{"gate_proj.weight": (20, 8), "gate_proj.bias": (20,), "up_proj.weight": (20, 8)},
        **{"up_proj.bias": (20,), "down_proj.weight": (8, 20), "down_proj.bias": (8,)},
    }
    x = normal(5, 8)
    assert pylayers.GatedMLP(8, 20, 3)(x).shape == (5, 3)
    assert [name for name, _ in pylayers.GatedMLP(8, 20).named_parameters()] == [
        f"{name}_proj.weight" for name in ("gate", "up", "down")
    ]
    harness.keeps_the_module_contract(lambda **kind: pylayers.GatedMLP(8, 20, **kind), x)
    with pytest.raises(ValueError, match="activation must be one of 'silu', 'gelu', 'gelu_tanh', 'relu', got 'sin'"):
        pylayers.GatedMLP(8, 20, activation="sin")


@pytest.mark.parametrize("name,gate_of", [*zip(("silu", "gelu", "gelu_tanh", "relu"), GATES.values())], ids=GATES.keys())
def test_gated_mlp_activations(name, gate_of):
    mlp, x = pylayers.GatedMLP(8, 20, activation=name), 3 * normal(5, 8)
    expected = mlp.down_proj(gate_of[-1](mlp.gate_proj(x)) * mlp.up_proj(x))
    torch.testing.assert_close(mlp(x), expected)
    assert f"activation={name!r}" in repr(mlp)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.swiglu(x, 3), TypeError, "swiglu: up must be a Tensor, got int"),
        (lambda x: functional.reglu(x, x[:1]), ValueError, "reglu: up must have the shape of gate [2, 3], got [1, 3]"),
        (lambda x: functional.swiglu(x, x.half()), TypeError, "swiglu: up must have the dtype of gate (Float), got Half"),
        (lambda x: functional.geglu(x.long(), x.long()), TypeError, "geglu: gate must be float64"),
        (lambda x: functional.swiglu(x, x.to("meta")), RuntimeError, "swiglu: up must be on the device of gate (cpu), got meta"),
        (lambda x: functional.swiglu_packed(x), ValueError, "swiglu_packed: the last dimension of input must be even"),
        (lambda x: functional.reglu_packed(x[0, 0]), ValueError, "reglu_packed: the last dimension of input must be even"),
        (lambda x: functional.geglu(x, x, "erf"), ValueError, "geglu: approximate must be 'none' or 'tanh', got 'erf'"),
        (lambda x: functional.geglu_packed(x, "erf"), ValueError, "geglu_packed: approximate must be 'none' or 'tanh', got 'erf'"),
        (lambda x: functional.relu_squared(x.long()), TypeError, "relu_squared: input must be float64"),
        (lambda x: functional.relu_squared([x]), TypeError, "relu_squared: input must be a Tensor, got list"),
    ],
)
def test_gate_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
