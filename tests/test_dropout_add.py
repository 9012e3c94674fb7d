import copy
import math
import pickle

import harness
import pytest
import torch
import torch.nn.functional as F
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal, seeded  # noqa: F401
from pylayers import functional, reference
from test_two_sided_uniform import philox_of_the_paper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import pylayers

# [rows, dim, p]
SIZES = [(1, 1, 0.5), (3, 7, 0.1), (5, 4, 0.5), (65, 33, 0.3), (2, 3001, 0.5), (1, 20001, 0.1), (3, 8192, 0.5)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def with_seed(seed, p=0.5):
    """The op, and its definition, with one mask in all calls."""
    calls = functional.dropout_add, reference.dropout_add
    return tuple(lambda x, r, call=call: call(x, r, p, generator=seeded(seed=seed)) for call in calls)


def pair(*size, **kind):
    return normal(*size, **kind), normal(*size, seed=1, **kind)


def mask_of(*size, p, **kind):
    """1 / (1 − p) where kept, else 0, as float64."""
    ones = torch.ones(size, **kind)
    return functional.dropout_add(ones, torch.zeros_like(ones), p).double()


def truncates(backend, dtype):
    return backend == "triton" and dtype == torch.bfloat16 and pylayers.backends()["triton"].note.startswith("interpreted")


class Calls(TorchDispatchMode):
    """Counts the ops of this package."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "pylayers":
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dropout_add(backend, device, dtype, size):
    *size, p = size
    x, residual = pair(*size, dtype=dtype, device=device)
    ours, exact = with_seed(3, p)
    harness.matches_float64(ours, exact, (x, residual), backend)
    if not truncates(backend, dtype):
        with pylayers.backend(backend):
            assert torch.equal(ours(x, residual), exact(x, residual))


@every_backend
@every_dtype
@every_layout
@pytest.mark.parametrize("columns", [24, 23])
def test_dropout_add_strides(backend, device, dtype, layout, columns):
    """By logical index, also where rows begin within a counter."""
    x, residual = (layout(one) for one in pair(5, columns, dtype=dtype, device=device))
    harness.matches_float64(*with_seed(3), (x, residual), backend)
    harness.matches_float64(*with_seed(3), (x, residual.contiguous()), backend)


@every_backend
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 2])
def test_dropout_add_is_the_philox_of_the_paper(backend, device, seed):
    """Word i mod 4 of counter i / 4, whether the seed is a number or in memory."""
    p, count = 0.3, 37
    x = torch.ones(count, device=device)
    words = [word for counter in range(10) for word in philox_of_the_paper(counter, seed)][:count]
    expected = torch.tensor([word >> 1 >= round(p * 2**31) for word in words], device=device)
    with pylayers.backend(backend):
        if backend == "reference":  # it has no kernels
            return
        for key in (torch.tensor(seed), torch.tensor([seed], device=device)):
            y = torch.ops.pylayers.dropout_add_forward(x, torch.zeros_like(x), key, p)
            assert torch.equal(y != 0, expected)
            assert torch.equal(torch.ops.pylayers.dropout_add_backward(x, key, p), y)


@every_backend
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_add_distribution(backend, device, p):
    """Counts within five standard deviations of a binomial; neighbours, the words of a counter and calls are independent."""
    torch.manual_seed(1)
    count = 40_000

    def about(found, trials, chance):
        return abs(int(found) - trials * chance) < 5 * math.sqrt(trials * chance * (1 - chance))

    with pylayers.backend(backend):
        mask, other = (mask_of(count, p=p, device=device) for _ in range(2))
    kept = mask != 0
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)), rtol=1e-7, atol=0)
    assert about(kept.sum(), count, 1 - p)
    for word in range(4):
        assert about(kept[word::4].sum(), count // 4, 1 - p)
    for shift in (1, 2, 3, 4, 8, 32, 4096):
        assert about((kept[shift:] & kept[:-shift]).sum(), count - shift, (1 - p) ** 2), shift
    assert about((kept & (other != 0)).sum(), count, (1 - p) ** 2)


@every_backend
def test_dropout_add_seeds(backend, device):
    x, residual = pair(200, device=device)
    with pylayers.backend(backend):
        torch.manual_seed(4)
        first, second = (functional.dropout_add(x, residual) for _ in range(2))
        torch.manual_seed(4)
        again = functional.dropout_add(x, residual)
        explicit = functional.dropout_add(x, residual, generator=seeded(device, 4))
        other = functional.dropout_add(x, residual, generator=seeded(device, 5))
    assert torch.equal(first, again) and torch.equal(first, explicit)
    assert not torch.equal(first, second) and not torch.equal(first, other)


@every_backend
def test_dropout_add_takes_one_number_of_the_generator(backend, device):
    one, other = seeded(seed=9), seeded(seed=9)
    with pylayers.backend(backend):
        functional.dropout_add(*pair(300, device=device), generator=one)
    torch.randint(2**63 - 1, (), generator=other)
    assert torch.equal(one.get_state(), other.get_state())
    before = one.get_state()
    for options in (dict(p=0.0), dict(training=False)):
        functional.dropout_add(*pair(300), generator=one, **options)
    assert torch.equal(one.get_state(), before)


@every_backend
@every_dtype
def test_dropout_add_certain_events(backend, device, dtype):
    x, residual = (one.requires_grad_() for one in pair(3, 50, dtype=dtype, device=device))
    with pylayers.backend(backend):
        for options in (dict(p=0.0), dict(training=False), dict(p=1.0, training=False)):
            y = functional.dropout_add(x, residual, **options)
            assert torch.equal(y, residual + x)
            assert all((grad == 1).all() for grad in torch.autograd.grad(y.sum(), (x, residual)))
        y = functional.dropout_add(x, residual, p=1.0)
        assert torch.equal(y, residual + F.dropout(x, 1.0)) and y.data_ptr() != residual.data_ptr()
        dx, dresidual = torch.autograd.grad(y.sum(), (x, residual))
        assert (dx == 0).all() and (dresidual == 1).all()


@every_backend
def test_dropout_add_what_is_dropped_does_not_count(backend, device):
    x = torch.tensor([math.inf, -math.inf, math.nan] * 100, device=device)
    with pylayers.backend(backend):
        y = functional.dropout_add(x, torch.zeros_like(x), 0.5, generator=seeded())
        kept = functional.dropout_add(torch.ones_like(x), torch.zeros_like(x), 0.5, generator=seeded()) != 0
        assert (functional.dropout_add(x, torch.zeros_like(x), 1.0) == 0).all()
    assert (y[~kept] == 0).all() and not y[kept].isfinite().any() and 50 < kept.sum() < 250


@every_backend
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0), ()], ids=str)
def test_dropout_add_empty_and_without_dimensions(backend, device, shape):
    x, residual = (torch.full(shape, 3.0, device=device, requires_grad=True) for _ in range(2))
    with pylayers.backend(backend):
        y = functional.dropout_add(x, residual)
        y.sum().backward()
    assert y.shape == x.grad.shape == torch.Size(shape) and ((y == 3) | (y == 9)).all()


@every_backend
@every_dtype
def test_dropout_add_backward_has_the_mask_of_the_forward(backend, device, dtype):
    x = torch.ones(5, 77, dtype=dtype, device=device, requires_grad=True)
    with pylayers.backend(backend):
        y = functional.dropout_add(x, torch.zeros_like(x), 0.3)
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)


@pytest.mark.parametrize("asked", [(True, True), (True, False), (False, True)], ids=str)
def test_dropout_add_gradients_that_are_asked_for(asked):
    x, residual = (one.requires_grad_(wanted) for one, wanted in zip(pair(3, 8), asked, strict=True))
    y, grad = functional.dropout_add(x, residual), normal(3, 8)
    given = []
    residual.register_hook(given.append) if asked[1] else None
    with Calls() as calls:
        y.backward(grad)
    assert calls.seen == ["dropout_add_backward"] * asked[0]
    assert (x.grad is not None, residual.grad is not None) == asked
    if asked[1]:
        assert given[0].data_ptr() == grad.data_ptr()


def test_dropout_add_saves_a_number():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.dropout_add(*(one.requires_grad_() for one in pair(40, 8)))
    assert [one.numel() for one in saved] == [1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_dropout_add_does_not_depend_on_the_number_of_threads(threads):
    ours, exact = with_seed(8)
    x, residual = pair(300_001)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(ours(x, residual), exact(x, residual))
    finally:
        torch.set_num_threads(before)


@every_backend
@pytest.mark.parametrize("reentrant", [False, True])
def test_dropout_add_is_replayed_by_checkpoint(backend, device, reentrant):
    def block(x):
        return functional.dropout_add(x.exp(), functional.dropout_add(x, torch.zeros_like(x), 0.3)).sin()

    found = []
    with pylayers.backend(backend):
        for call in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
            torch.manual_seed(2)
            x = normal(3, 50, device=device).requires_grad_()
            y = call(x)
            functional.dropout_add(x, x)  # other draws, before the block runs again
            y.sum().backward()
            found.append((y, x.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_dropout_add_derivatives():
    """First and second, by finite differences."""
    ours, _ = with_seed(6, 0.3)
    leaves = tuple(one.double().requires_grad_() for one in pair(3, 5))
    torch.autograd.gradcheck(ours, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(lambda x, r: ours(x.sin(), r) * r, leaves, check_batched_grad=True)


def test_dropout_add_transforms():
    ours, exact = with_seed(6, 0.3)
    x, residual = (one.double() for one in pair(3, 5))
    for transform in (
        lambda call: torch.func.grad(lambda *two: call(*two).square().sum(), (0, 1))(x, residual),
        lambda call: torch.func.jvp(call, (x, residual), (residual, x)),
        lambda call: torch.func.vjp(call, x, residual)[1](x),
        lambda call: torch.func.jacrev(call)(x, residual),
    ):
        torch.testing.assert_close(transform(ours), transform(exact), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", [False, True])
def test_dropout_add_vmap_randomness(gradient):
    """As torch's dropout: refused, a mask for each sample, or one for all."""
    x = torch.ones(4, 300)

    def mask(one, p=0.5):
        def call(a):
            return functional.dropout_add(a, torch.zeros_like(a), p)

        return torch.func.grad(lambda a: call(a).sum())(one) if gradient else call(one)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(mask)(x)
    different, same = (torch.vmap(mask, randomness=kind)(x) for kind in ("different", "same"))
    for masks in (different, same):
        assert ((masks == 0) | (masks == 2)).all() and 400 < (masks == 0).sum() < 800
    assert len({tuple(one.tolist()) for one in different}) == 4 and len({tuple(one.tolist()) for one in same}) == 1
    of_none = torch.vmap(lambda _: mask(x[0]), randomness="different")(x)
    assert of_none.shape == x.shape and not torch.equal(of_none[0], of_none[1])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("recomputed", [False, True])
def test_dropout_add_compiles(dynamic, recomputed):
    """One graph; forward and backward agree on the mask, which is another one in each call."""

    def block(x, residual):
        return functional.dropout_add(x * 2, residual, 0.25) * 3

    def call(x, residual):
        return checkpoint(block, x, residual, use_reentrant=False) if recomputed else block(x, residual)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic)
    seen = []
    for rows in (4, 4, 6) if dynamic else (4, 4):
        x, residual = torch.ones(rows, 300, requires_grad=True), torch.zeros(rows, 300, requires_grad=True)
        y = compiled(x, residual)
        dx, dresidual = torch.autograd.grad(y.sum(), (x, residual))
        torch.testing.assert_close(dx, y)
        assert (dresidual == 3).all() and ((y == 0) | (y == 8)).all() and 0.15 < float((y == 0).float().mean()) < 0.35
        seen.append(y[:4])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("gradient", [False, True])
def test_dropout_add_traced_has_the_mask_of_the_eager_call(gradient):
    x, residual = (one.requires_grad_(gradient) for one in pair(4, 30))
    torch.compiler.reset()
    traced = torch.compile(lambda *two: functional.dropout_add(*two, 0.25), fullgraph=True, backend="aot_eager")
    for seed in (1, 2):  # the second call runs what the first has traced
        torch.manual_seed(seed)
        expected = functional.dropout_add(x, residual, 0.25)
        torch.manual_seed(seed)
        assert torch.equal(traced(x, residual), expected)


def test_dropout_add_is_recorded_with_its_draw():
    """A number that were drawn while recording would be the same in every run."""
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: functional.dropout_add(x, x))(torch.ones(300))
    assert not torch.equal(graph(torch.ones(300)), graph(torch.ones(300)))


@pytest.mark.parametrize("grad", [False, True])
def test_dropout_add_opcheck(grad):
    x, residual = (one.requires_grad_(grad) for one in pair(3, 8))
    harness.passes_opcheck("dropout_add", x, residual, 0.5)
    for seed in (torch.tensor(7), torch.tensor([7])):
        harness.passes_opcheck("dropout_add_forward", x.detach(), residual.detach(), seed, 0.5)
        harness.passes_opcheck("dropout_add_backward", x, seed, 0.5)
    assert torch.Tag.nondeterministic_seeded in torch.ops.pylayers.dropout_add.default.tags
    assert torch.Tag.nondeterministic_seeded not in torch.ops.pylayers.dropout_add_backward.default.tags


def test_dropout_add_autocast():
    x, residual = pair(3, 8)
    ours, _ = with_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x.bfloat16(), residual).dtype == torch.float32
        assert torch.equal(ours(x.bfloat16(), residual), ours(x.bfloat16().float(), residual))
        assert ours(x.bfloat16(), residual.bfloat16()).dtype == torch.bfloat16


def test_dropout_add_module():
    x, residual = pair(3, 80)
    layer = pylayers.DropoutAdd(0.25)
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(3)
        y = same(x, residual)
        torch.manual_seed(3)
        assert torch.equal(y, functional.dropout_add(x, residual, 0.25))
    assert torch.equal(layer.eval()(x, residual), residual + x) and not torch.equal(layer.train()(x, residual), residual + x)
    assert repr(layer) == "DropoutAdd(p=0.25)" and not layer.state_dict() and pylayers.DropoutAdd().p == 0.5
    before = torch.get_rng_state()
    assert layer(x.to("meta"), residual.to("meta")).shape == x.shape and torch.equal(torch.get_rng_state(), before)
    for p in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="DropoutAdd: p must be a probability between 0 and 1, got"):
            pylayers.DropoutAdd(p)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    "arguments,error,sentence",
    [
        (([1.0], X), TypeError, "dropout_add: input must be a Tensor, got list"),
        ((X.int(), X.int()), TypeError, "dropout_add: input must be float64, float32, float16 or bfloat16, got Int"),
        ((X, X.half()), TypeError, "dropout_add: residual must have the dtype of input (Float), got Half"),
        ((X, X[:1]), ValueError, "dropout_add: residual must have the shape of input [2, 3], got [1, 3]"),
        ((X, X.to("meta")), RuntimeError, "dropout_add: residual must be on the device of input (cpu), got meta"),
        ((X, X, -0.1), ValueError, "dropout_add: p must be a probability between 0 and 1, got -0.1"),
        ((X, X, 1.1, False), ValueError, "dropout_add: p must be a probability between 0 and 1, got 1.1"),
        ((X, X, math.nan), ValueError, "dropout_add: p must be a probability between 0 and 1, got nan"),
        ((X, X, "half"), TypeError, "dropout_add: the arguments must be"),
        ((X, X, 0.5, True, 7), TypeError, "dropout_add: the arguments must be"),
    ],
)
def test_dropout_add_bad_input(arguments, error, sentence):
    with pytest.raises(error) as raised:
        functional.dropout_add(*arguments)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", [torch.ones(2).long(), torch.ones(()), torch.ones(1).long().to("meta")], ids=str)
def test_dropout_add_bad_seed(seed):
    with pytest.raises((RuntimeError, TypeError), match="dropout_add: seed must be"):
        torch.ops.pylayers.dropout_add_backward.default.redispatch(
            torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd), X, seed, 0.5
        )


@needs_gpu
def test_dropout_add_cuda_generator():
    """No sync, and the offset goes on by 4."""
    x, residual = pair(200, device="cuda")
    first, second = seeded("cuda", 4), seeded("cuda", 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [functional.dropout_add(x, residual, generator=first) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert first.get_offset() == 8 and not torch.equal(*found)
    assert torch.equal(found[0], functional.dropout_add(x, residual, generator=second))
    with pytest.raises(RuntimeError, match="dropout_add: generator must be one of the CPU or of the device of input"):
        functional.dropout_add(X, X, generator=first)


@needs_gpu
@every_backend
def test_dropout_add_cuda_graph(backend, device):
    """Each replay draws another mask, and its backward has that one."""
    if device != "cuda" or backend == "reference":
        return
    x = torch.ones(300, device="cuda", requires_grad=True)

    def step():
        y = functional.dropout_add(x, torch.zeros_like(x), 0.5)
        return y, torch.autograd.grad(y.sum(), x)[0]

    with pylayers.backend(backend):
        with torch.cuda.stream(torch.cuda.Stream()):
            step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, dx = step()
        seen = []
        for _ in range(3):
            graph.replay()
            assert torch.equal(y, dx) and 50 < (y == 0).sum() < 250
            seen.append(y.clone())
        assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
        with pytest.raises(RuntimeError, match="where a CUDA graph is captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            functional.dropout_add(x, x, generator=seeded())
