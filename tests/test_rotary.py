import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from torch.utils._python_dispatch import TorchDispatchMode

import pylayers

# batch, tokens, heads, heads of k, head_dim, pairs: one of everything, odd, partial, a head wider than a block or a tile.
SIZES = [
    (1, 1, 1, 1, 2, 1), (2, 3, 4, 2, 8, 4), (1, 9, 3, 1, 64, 32), (2, 5, 2, 3, 20, 6), (1, 3, 1, 1, 7, 3), (1, 2, 6, 1, 128, 64),
    (1, 3, 2, 2, 80, 20), (2, 2, 1, 1, 300, 149), (3, 1, 9, 2, 16, 8),
]  # fmt: skip
every_pairing = pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
every_order = pytest.mark.parametrize("heads_first", [False, True], ids=["tokens first", "heads first"])


def tables(rows, half, device="cpu"):
    angles = torch.arange(rows)[:, None] * 100.0 ** -torch.linspace(0, 1, half)
    return angles.cos().to(device), angles.sin().to(device)


def heads(batch, tokens, count, key_count, head_dim, heads_first=False, **kind):
    q, k = normal(batch, tokens, count, head_dim, **kind), normal(batch, tokens, key_count, head_dim, seed=1, **kind)
    return (q.transpose(1, 2), k.transpose(1, 2)) if heads_first else (q, k)


def turned_by(cos, sin, **options):
    """The op, and its definition, as functions of q and k."""
    return tuple(lambda q, k, call=call: call(q, k, cos, sin, **options) for call in (functional.rotary, reference.rotary))


def together(rotary):
    """As one output."""
    return lambda q, k: torch.cat([one.flatten() for one in rotary(q, k)])


def looks_at_positions(backend, device):
    """Whether this backend runs here in a way that nothing has to wait for."""
    interpreted = pylayers.backends()[backend].note.startswith("interpreted")
    return device == "cpu" and (backend in ("cpu", "reference") or interpreted)


@every_backend
@every_dtype
@every_pairing
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rotary(backend, device, dtype, interleaved, size):
    q, k = heads(*size[:5], dtype=dtype, device=device)
    harness.matches_float64(*turned_by(*tables(size[1], size[5], device), interleaved=interleaved), (q, k), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_pairing
@every_order
@pytest.mark.parametrize("shape", [(2, 5), (1, 5), (5,)], ids=str)
def test_rotary_positions(backend, device, dtype, interleaved, heads_first, shape):
    q, k = heads(2, 5, 3, 2, 16, heads_first, dtype=dtype, device=device)
    positions = torch.randint(0, 30, shape, generator=harness.seeded(), device="cpu").to(device)
    options = dict(positions=positions, interleaved=interleaved, heads_first=heads_first)
    harness.matches_float64(*turned_by(*tables(30, 6, device), **options), (q, k), backend)


@every_backend
@every_pairing
def test_rotary_many_heads_and_tokens(backend, device, interleaved):
    """More than one tile of either."""
    q, k = heads(2, 19, 21, 10, 8, dtype=torch.bfloat16, device=device)
    harness.matches_float64(*turned_by(*tables(19, 4, device), interleaved=interleaved), (q, k), backend)


@pytest.mark.parametrize("backend", ["cpu"])
def test_rotary_so_many_that_stores_pass_the_caches(backend):
    """In rows that allow it and in such that do not. Few at a time, no store does."""
    tokens = 1600
    for head_dim, half, interleaved in ((128, 64, True), (128, 60, False), (100, 48, False), (100, 48, True)):
        q = normal(1, tokens, 16, head_dim, dtype=torch.bfloat16)
        cos, sin = tables(tokens, half)
        with pylayers.backend(backend):
            found, _ = functional.rotary(q, q[:, :, :1], cos, sin, interleaved=interleaved)
            for first in range(0, tokens, 100):
                few = slice(first, first + 100)
                one, _ = functional.rotary(q[:, few], q[:, few, :1], cos[few], sin[few], interleaved=interleaved)
                assert torch.equal(found[:, few], one)


@every_backend
@every_order
def test_rotary_has_the_numbers_of_transformers(backend, device, heads_first):
    """Its formula, on its tables, whose columns come twice."""
    q, k = heads(2, 5, 4, 2, 8, heads_first, device=device)
    cos, sin = (torch.cat([one, one], -1).expand(2, 5, 8) for one in tables(5, 4, device))
    with pylayers.backend(backend):
        found = functional.rotary(q, k, cos[..., :4], sin[..., :4], heads_first=heads_first)
    axis = 1 if heads_first else 2
    for x, y in zip((q, k), found, strict=True):
        other = torch.cat([-x[..., 4:], x[..., :4]], -1)
        torch.testing.assert_close(y, x * cos.unsqueeze(axis) + other * sin.unsqueeze(axis))


@every_backend
def test_rotary_interleaved_is_a_product_of_complex_numbers(backend, device):
    q, k = heads(2, 5, 4, 2, 8, device=device)
    cos, sin = tables(5, 4, device)
    with pylayers.backend(backend):
        found = functional.rotary(q, k, cos, sin, interleaved=True)
    for x, y in zip((q, k), found, strict=True):
        turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.complex(cos, sin)[:, None]
        torch.testing.assert_close(y, torch.view_as_real(turned).flatten(-2))


@every_backend
@pytest.mark.parametrize("batch", [1, 2])
def test_rotary_rows_for_every_token(backend, device, batch):
    q, k = heads(2, 5, 3, 1, 12, device=device)
    cos, sin = (torch.stack([one[:5], one[2:7]])[:batch] for one in tables(7, 4, device))
    harness.matches_float64(*turned_by(cos, sin), (q, k), backend)


@every_backend
def test_rotary_packed_sequences(backend, device):
    q, k = (one[0] for one in heads(1, 9, 3, 1, 16, device=device))
    cos, sin = tables(6, 8, device)
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2], device=device)
    with pylayers.backend(backend):
        together = functional.rotary(q, k, cos, sin, positions=positions)
        apart = [functional.rotary(q[part], k[part], cos, sin) for part in (slice(0, 6), slice(6, 9))]
        one = functional.rotary(q[8:], k[8:], cos[2:], sin[2:])
        narrow = functional.rotary(q, k, cos, sin, positions=positions.int())
    for index, whole in enumerate(together):
        assert torch.equal(whole, torch.cat([part[index] for part in apart]))
        assert torch.equal(whole[8:], one[index]) and torch.equal(whole, narrow[index])


@every_backend
@every_pairing
@every_layout
def test_rotary_strides(backend, device, interleaved, layout):
    cos, sin = tables(4, 8, device)
    q, k = (layout(one) for one in heads(1, 4, 3, 1, 24, dtype=torch.bfloat16, device=device))
    harness.matches_float64(*turned_by(layout(cos), sin, interleaved=interleaved), (q, k), backend)
    harness.matches_float64(*turned_by(cos, layout(sin), interleaved=interleaved), (q.float(), k.contiguous().float()), backend)


@every_backend
@every_pairing
def test_rotary_tokens_that_are_badly_aligned(backend, device, interleaved):
    """Where the first one and the heads of each are well aligned."""
    memory = normal(4, 3 * 32 + 1, dtype=torch.bfloat16, device=device)
    q = memory[:, :-1].view(1, 4, 3, 32)
    assert q.stride(1) % 2 and not q.is_contiguous()
    for half in (8, 16):
        harness.matches_float64(*turned_by(*tables(4, half, device), interleaved=interleaved), (q, q[:, :, :1]), backend)


@every_backend
@every_pairing
def test_rotary_tables_that_are_badly_aligned(backend, device, interleaved):
    q, k = heads(1, 4, 2, 1, 32, dtype=torch.bfloat16, device=device)
    for columns in (17, 18, 20):
        cos, sin = (one[:, 1:17] for one in tables(4, columns, device))
        harness.matches_float64(*turned_by(cos, sin, interleaved=interleaved), (q, k), backend)


@pytest.mark.parametrize("backend,device", [one for one in harness.RUNNABLE if one[0] == "cpu" or one[1] == "cuda"])
def test_rotary_far_apart(backend, device):
    """Offsets beyond 32 bits, in memory that is hardly touched. The emulator would keep book of every byte of it."""
    far = 2**31 + 8
    memory = torch.empty(far + 8, dtype=torch.float16, device=device)
    q = memory.as_strided((1, 2, 1, 8), (0, far, 8, 1))
    q.copy_(normal(1, 2, 1, 8))
    with pylayers.backend(backend):
        found = functional.rotary(q, q, *tables(2, 3, device))
        for one, exact in zip(found, functional.rotary(q.clone(), q.clone(), *tables(2, 3, device)), strict=True):
            assert torch.equal(one, exact)


@every_backend
@every_pairing
def test_rotary_copies_the_other_features_bit_by_bit(backend, device, interleaved):
    bits = torch.arange(2 * 3 * 64, device=device).mul(173).to(torch.int16).view(1, 3, 2, 64)  # nan and infinity are among them
    q = bits.view(torch.bfloat16)
    with pylayers.backend(backend):
        found, _ = functional.rotary(q, q, *tables(3, 4, device), interleaved=interleaved)
    assert torch.equal(found[..., 8:].view(torch.int16), bits[..., 8:])


@every_backend
@pytest.mark.parametrize("wrong", [-1, 30, 2**40])
def test_rotary_position_out_of_range(backend, device, wrong):
    q, k = heads(1, 3, 2, 1, 16, device=device)
    positions = torch.tensor([4, wrong, 29], device=device)
    with pylayers.backend(backend):
        if looks_at_positions(backend, device):
            with pytest.raises(IndexError, match=f"rotary: positions must be between 0 and 29, the rows of cos, got {wrong}$"):
                functional.rotary(q, k, *tables(30, 6, device), positions=positions)
            return
        for x, y in zip((q, k), functional.rotary(q, k, *tables(30, 6, device), positions=positions), strict=True):
            nan = y.isnan()
            assert nan[:, 1, :, :12].all() and not nan[:, ::2].any()
            assert torch.equal(y[..., 12:], x[..., 12:])


@every_backend
@pytest.mark.parametrize("shape", [(0, 4, 2, 8), (2, 0, 2, 8), (2, 4, 0, 8), (0, 2, 8)], ids=str)
def test_rotary_empty(backend, device, shape):
    q = torch.empty(shape, device=device, requires_grad=True)
    k = torch.ones((*shape[:-2], 1, 8), device=device, requires_grad=True)
    with pylayers.backend(backend):
        for one, other in ((q, k), (k, q)):
            y, z = functional.rotary(one, other, *tables(4, 4, device))
            assert y.shape == one.shape and z.shape == other.shape
            (y.sum() + z.sum()).backward()
    assert q.grad.shape == q.shape and k.grad.shape == k.shape and (k.numel() == 0 or k.grad.abs().sum() > 0)


@every_backend
def test_rotary_by_nothing(backend, device):
    q, k = heads(1, 3, 2, 1, 8, device=device)
    with pylayers.backend(backend):
        found = functional.rotary(q, k, *tables(3, 0, device))
    assert torch.equal(found[0], q) and torch.equal(found[1], k) and found[0].data_ptr() != q.data_ptr()


@every_backend
@every_pairing
def test_rotary_gradient_turns_back(backend, device, interleaved):
    q, k = (one.requires_grad_() for one in heads(2, 5, 3, 1, 16, device=device))
    with pylayers.backend(backend):
        found = functional.rotary(q, k, *tables(5, 6, device), interleaved=interleaved)
        back = torch.autograd.grad(found, (q, k), [one.detach() for one in found])
    torch.testing.assert_close(back, (q.detach(), k.detach()))


@every_backend
@pytest.mark.parametrize("wanted", [0, 1])
def test_rotary_only_the_gradient_asked_for(backend, device, wanted):
    inputs = heads(2, 5, 3, 1, 16, device=device)
    cos, sin = tables(5, 8, device)
    grads = [normal(*one.shape, seed=2, device=device) for one in inputs]
    back = functional.rotary(*grads, cos, -sin)
    with pylayers.backend(backend):
        frozen = [one.clone().requires_grad_(index == wanted) for index, one in enumerate(inputs)]
        torch.autograd.backward(functional.rotary(*frozen, cos, sin)[wanted], grads[wanted])
        unused = [one.clone().requires_grad_() for one in inputs]
        torch.autograd.backward(functional.rotary(*unused, cos, sin)[wanted], grads[wanted])
    for leaves in (frozen, unused):
        torch.testing.assert_close(leaves[wanted].grad, back[wanted])
        assert leaves[1 - wanted].grad is None


def test_rotary_turns_only_the_gradient_asked_for():
    turned = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "rotary_rotate" in str(function):
                turned.append([one is not None for one in args[:2]])
            return function(*args, **(kwargs or {}))

    for wanted in (0, 1):
        leaves = [one.requires_grad_() for one in heads(2, 5, 3, 1, 16)]
        with Watch():
            functional.rotary(*leaves, *tables(5, 8))[wanted].sum().backward()
    assert turned == [[True, True], [True, False], [True, True], [False, True]]


def test_rotary_saves_its_tables_alone():
    saved = []
    cos, sin = tables(5, 4)
    q, k = heads(1, 5, 2, 1, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.rotary(q.requires_grad_(), k, cos, sin)
    assert [one.data_ptr() for one in saved] == [cos.data_ptr(), sin.data_ptr()]
    with torch.no_grad():
        assert functional.rotary(q, k, cos, sin)[0].grad_fn is None


@every_pairing
def test_rotary_derivatives(interleaved):
    own, _ = turned_by(*tables(9, 2), interleaved=interleaved, positions=torch.tensor([4, 8]))
    harness.derivatives_hold(together(own), heads(1, 2, 2, 1, 5))


def test_rotary_second_derivatives_run_kernels():
    q, k = (one.requires_grad_() for one in heads(1, 3, 2, 1, 4))
    found = functional.rotary(q, k, *tables(3, 2))
    first = torch.autograd.grad(found, (q, k), [one.clone().requires_grad_() for one in found], create_graph=True)
    assert first[0].grad_fn.name() == "pylayers::RotaryBackward"


@every_pairing
@every_order
def test_rotary_transforms(interleaved, heads_first):
    own, exact = turned_by(*tables(9, 2), interleaved=interleaved, heads_first=heads_first, positions=torch.tensor([4, 8]))
    harness.transforms_match(together(own), together(exact), heads(1, 2, 2, 1, 5, heads_first))


def test_rotary_positions_in_a_batch():
    q, k = heads(1, 4, 2, 1, 6)
    positions = torch.tensor([[0, 1, 2, 3], [5, 5, 5, 8]])
    found = torch.func.vmap(lambda one: functional.rotary(q, k, *tables(9, 3), positions=one))(positions)
    for own, batched in zip(functional.rotary(q, k, *tables(9, 3), positions=positions[1]), found, strict=True):
        torch.testing.assert_close(batched[1], own)


@every_pairing
def test_rotary_compiles(interleaved):
    own, _ = turned_by(*tables(9, 2), interleaved=interleaved, positions=torch.tensor([4, 8, 0]))
    harness.compiles(lambda x: together(own)(x, x[:, :, :1] * 2), (normal(1, 3, 2, 5),))


def test_rotary_compiled_looks_at_positions_too():
    q, k = heads(1, 3, 2, 1, 8)
    compiled = torch.compile(functional.rotary, fullgraph=True, backend="aot_eager")
    compiled(q, k, *tables(5, 4), positions=torch.tensor([0, 4, 1]))
    with pytest.raises(IndexError, match="rotary: positions must be between 0 and 4, the rows of cos, got 5"):
        compiled(q, k, *tables(5, 4), positions=torch.tensor([0, 5, 1]))
    torch.compiler.reset()


@pytest.mark.parametrize("grad", [False, True])
def test_rotary_opcheck(grad):
    q, k = (one.requires_grad_(grad) for one in heads(2, 3, 2, 1, 8))
    cos, sin = tables(4, 3)
    positions = torch.tensor([[0, 1, 2], [3, 0, 1]])
    for interleaved in (False, True):
        harness.passes_opcheck("rotary", q, k, cos, sin, positions, interleaved, False)
    harness.passes_opcheck("rotary", q.transpose(1, 2), k.transpose(1, 2), cos, sin, None, False, True)
    harness.passes_opcheck("rotary_rotate", q, k, cos, sin, None, False, False, True)
    harness.passes_opcheck("rotary_rotate", None, k, cos, sin, positions, True, False, False)
    harness.passes_opcheck("rotary_rotate", q, None, cos, sin, positions, True, False, True)


def test_rotary_autocast():
    q, k = heads(1, 3, 2, 1, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert {one.dtype for one in functional.rotary(q, k, *tables(3, 4))} == {torch.bfloat16}
        mixed = functional.rotary(q, k.float(), *tables(3, 4))
    assert {one.dtype for one in mixed} == {torch.float32}


def test_rotary_float64_tables():
    q, k = heads(1, 3, 2, 1, 8, dtype=torch.float64)
    cos, sin = (one.double() for one in tables(3, 4))
    wide, narrow = functional.rotary(q, k, cos, sin), functional.rotary(q, k, cos.float(), sin.float())
    assert torch.equal(wide[0], narrow[0]) and wide[0].dtype == torch.float64


q3, k3 = torch.ones(2, 3, 4, 8), torch.ones(2, 3, 1, 8)
c3 = torch.ones(3, 4)


@pytest.mark.parametrize(
    "arguments,options,error,sentence",
    [
        ((q3, 3, c3, c3), {}, TypeError, "rotary: k must be a Tensor, got int"),
        ((q3.int(), k3, c3, c3), {}, TypeError, "rotary: q must be float64, float32, float16 or bfloat16, got Int"),
        ((q3, k3.half(), c3, c3), {}, TypeError, "rotary: k must have the dtype of q (Float), got Half"),
        ((q3, k3.to("meta"), c3, c3), {}, RuntimeError, "rotary: k must be on the device of q (cpu), got meta"),
        ((q3[0, 0], k3, c3, c3), {}, ValueError, "q must have shape (batch, tokens, heads, head_dim) or (tokens, heads, head_dim), got [4, 8]"),
        ((q3[0, 0], k3, c3, c3), {"heads_first": True}, ValueError, "q must have shape (batch, heads, tokens, head_dim) or"),
        ((q3, k3[:, :2], c3, c3), {}, ValueError, "k must have the shape of q [2, 3, 4, 8] but for the number of heads, in dimension 2"),
        ((q3, k3[0], c3, c3), {}, ValueError, "k must have the shape of q"),
        ((q3, k3, c3.bfloat16(), c3), {}, TypeError, "cos must be float32, whatever the dtype of q (or float64 beside float64), got BFloat16"),
        ((q3, k3, c3, c3.double()), {}, TypeError, "sin must be float32"),
        ((q3, k3, c3.clone().requires_grad_(), c3), {}, ValueError, "cos must not require grad, since tables have no gradient here"),
        ((q3, k3, c3[0], c3[0]), {}, ValueError, "cos must have shape (rows, half) or (batch, tokens, half), got [4]"),
        ((q3, k3, c3, c3[:2]), {}, ValueError, "sin must have the shape of cos [3, 4], got [2, 4]"),
        ((q3, k3, torch.ones(3, 5), torch.ones(3, 5)), {}, ValueError, "cos must have at most head_dim / 2 columns, one for each pair of the 8"),
        ((q3, k3, c3[:2], c3[:2]), {}, ValueError, "cos must have a row for each of the 3 tokens, got [2, 4]"),
        ((q3, k3, c3.expand(3, 3, 4), c3.expand(3, 3, 4)), {}, ValueError, "cos must have shape (2, 3, half), a row for every token, got"),
        ((q3, k3, c3[None], c3[None]), {"positions": torch.arange(3)}, ValueError, "positions must be left out where cos has a row for every token, got cos [1, 3, 4]"),
        ((q3, k3, c3, c3), {"positions": torch.ones(3)}, TypeError, "positions must be int64 or int32, got Float"),
        ((q3, k3, c3, c3), {"positions": torch.arange(2)}, ValueError, "positions must have shape (2, 3) or (3,), one for every token, got [2]"),
        ((q3, k3, c3[:0], c3[:0]), {"positions": torch.arange(3)}, ValueError, "cos must have a row for every position, got [0, 4]"),
        ((q3, k3, c3, c3), {"positions": [0, 1, 2]}, TypeError, "rotary: positions must be a Tensor, got list"),
    ],
)
def test_rotary_bad_input(arguments, options, error, sentence):
    with pytest.raises(error) as raised:
        functional.rotary(*arguments, **options)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
