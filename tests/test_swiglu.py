import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference

import pylayers

SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (5, 1024), (1, 20001)]


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_swiglu(backend, device, dtype, size):
    gate, up = (3 * normal(*size, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_swiglu_packed(backend, device, dtype, size):
    packed = normal(size[0], 2 * size[1], dtype=dtype, device=device)
    harness.matches_float64(functional.swiglu_packed, reference.swiglu_packed, (packed,), backend)


@every_backend
@every_dtype
@every_layout
def test_swiglu_strides(backend, device, dtype, layout):
    gate, up = layout(normal(5, 24, dtype=dtype, device=device)), normal(5, 24, dtype=dtype, device=device, seed=1)
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)
    harness.matches_float64(functional.swiglu, reference.swiglu, (up, gate), backend)
    harness.matches_float64(functional.swiglu_packed, reference.swiglu_packed, (gate,), backend)


@every_backend
def test_swiglu_halves_of_one_tensor(backend, device):
    packed = normal(2, 3, 2 * 20, device=device)
    gate, up = packed.chunk(2, dim=-1)
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)
    with pylayers.backend(backend):
        assert torch.equal(functional.swiglu(gate, up), functional.swiglu_packed(packed))


@every_backend
def test_swiglu_any_number_of_dimensions(backend, device):
    for shape in ((), (5,), (2, 3, 4, 5)):
        gate, up = normal(*shape, device=device), normal(*shape, device=device, seed=1)
        harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0)], ids=str)
def test_swiglu_empty(backend, device, shape):
    gate, up = (torch.empty(shape, device=device, requires_grad=True) for _ in range(2))
    with pylayers.backend(backend):
        y = functional.swiglu(gate, up)
        y.sum().backward()
        assert functional.swiglu_packed(torch.empty(*shape[:-1], 2 * shape[-1], device=device)).shape == y.shape
    assert y.shape == gate.grad.shape == up.grad.shape == torch.Size(shape)


@every_backend
@every_dtype
def test_swiglu_far_from_zero(backend, device, dtype):
    gate = torch.tensor([-1e4, -200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0, 1e4], dtype=dtype, device=device)
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, torch.ones_like(gate)), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_swiglu_rounds_to_nearest(backend, device, dtype):
    """Truncation is within the bound on errors; it shows in their mean."""
    if dtype == torch.bfloat16 and pylayers.backends()[backend].note.startswith("interpreted"):
        pytest.skip("Triton's interpreter truncates")
    gate, up = (normal(64, 256, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    with pylayers.backend(backend):
        y = functional.swiglu(gate, up).double()
    exact = reference.swiglu(gate.double(), up.double())
    errors = ((y - exact) / exact)[exact.abs() > 1e-3]
    assert abs(errors.mean()) < 0.05 * torch.finfo(dtype).eps


def test_swiglu_saves_its_inputs_alone():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        gate, up = (normal(4, 8, seed=seed).requires_grad_() for seed in (0, 1))
        functional.swiglu(gate, up)
    assert [one.data_ptr() for one in saved] == [gate.data_ptr(), up.data_ptr()]


def test_swiglu_derivatives():
    harness.derivatives_hold(functional.swiglu, (normal(3, 4), normal(3, 4, seed=1)))
    harness.derivatives_hold(functional.swiglu_packed, (normal(3, 8),))


def test_swiglu_transforms():
    harness.transforms_match(functional.swiglu_packed, reference.swiglu_packed, (normal(3, 4),))

    def with_shared_up(call):
        return lambda gate, up: call(gate, up.expand(gate.shape))

    harness.transforms_match(with_shared_up(functional.swiglu), with_shared_up(reference.swiglu), (normal(3, 4), normal(4)))


def test_swiglu_compiles():
    harness.compiles(lambda x: functional.swiglu(x, x + 1) * 2, (normal(4, 6),))
    harness.compiles(lambda x: functional.swiglu_packed(x) * 2, (normal(4, 6),))


@pytest.mark.parametrize("grad", [False, True])
def test_swiglu_opcheck(grad):
    gate, up = (normal(3, 8, seed=seed).requires_grad_(grad) for seed in (0, 1))
    harness.passes_opcheck("swiglu", gate, up)
    harness.passes_opcheck("swiglu_packed", gate)
    harness.passes_opcheck("swiglu_backward", gate, gate, up)
    harness.passes_opcheck("swiglu_packed_backward", gate[:, :4].contiguous(), gate)
    harness.passes_opcheck("swiglu_forward", gate.detach(), up.detach())
    harness.passes_opcheck("swiglu_packed_forward", gate.detach())


def test_swiglu_autocast():
    gate, up = normal(3, 8, dtype=torch.bfloat16), normal(3, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.swiglu(gate, gate).dtype == torch.bfloat16
        y = functional.swiglu(gate, up)
    assert y.dtype == (torch.nn.functional.silu(gate) * up).dtype == torch.float32


def test_gated_mlp():
    torch.manual_seed(0)
    mlp = pylayers.GatedMLP(8, 20, bias=True)
    shapes = {name: tuple(one.shape) for name, one in mlp.state_dict().items()}
    assert shapes == {
        **{"gate_proj.weight": (20, 8), "gate_proj.bias": (20,), "up_proj.weight": (20, 8)},
        **{"up_proj.bias": (20,), "down_proj.weight": (8, 20), "down_proj.bias": (8,)},
    }
    x = normal(5, 8)
    expected = mlp.down_proj(torch.nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    torch.testing.assert_close(mlp(x), expected)
    assert pylayers.GatedMLP(8, 20, 3)(x).shape == (5, 3)
    assert [name for name, _ in pylayers.GatedMLP(8, 20).named_parameters()] == [
        f"{name}_proj.weight" for name in ("gate", "up", "down")
    ]
    harness.keeps_the_module_contract(lambda **kind: pylayers.GatedMLP(8, 20, **kind), x)
    with pytest.raises(ValueError, match="GatedMLP: activation must be one of 'silu', got 'sin'"):
        pylayers.GatedMLP(8, 20, activation="sin")


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.swiglu(x, 3), TypeError, "swiglu: up must be a Tensor, got int"),
        (lambda x: functional.swiglu(x, x[:1]), ValueError, "swiglu: up must have the shape of gate [2, 3], got [1, 3]"),
        (lambda x: functional.swiglu(x, x.half()), TypeError, "swiglu: up must have the dtype of gate (Float), got Half"),
        (lambda x: functional.swiglu(x.long(), x.long()), TypeError, "swiglu: gate must be float64"),
        (lambda x: functional.swiglu(x, x.to("meta")), RuntimeError, "swiglu: up must be on the device of gate (cpu), got meta"),
        (lambda x: functional.swiglu_packed(x), ValueError, "swiglu_packed: the last dimension of input must be even"),
        (lambda x: functional.swiglu_packed(x[0, 0]), ValueError, "swiglu_packed: the last dimension of input must be even"),
    ],
)
def test_swiglu_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
