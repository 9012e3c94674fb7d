import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal, seeded  # noqa: F401
from pylayers import functional, reference
from test_cross_entropy import IGNORED, INF, NAN, OPTIONS, every_option, probabilities, probable, targets
from torch.nn import functional as F

import pylayers

# [rows, inner, classes]
SIZES = [(1, 1, 1), (3, 7, 5), (2, 8, 8), (65, 33, 70), (70, 16, 1001)]


def of(target, weight=False, bias=False, **options):
    """Ours and the definition as functions of input, linear weight and, with one, bias."""

    def on(call):
        def function(x, w, *biases):
            classes = 0.5 + torch.arange(w.shape[0], device=x.device) % 7 / 4
            t = target.to(x.dtype) if target.is_floating_point() else target
            return call(x, w, t, linear_bias=biases[0] if bias else None, weight=classes.to(x.dtype) if weight else None, **options)

        return function

    return on(functional.linear_cross_entropy), on(reference.linear_cross_entropy)


def operands(rows, inner, *classes, dtype=torch.float32, device="cpu", bias=False):
    kind = dict(dtype=dtype, device=device)
    x, w = normal(rows, inner, **kind), 2 * normal(*classes, inner, seed=1, **kind) / inner**0.5
    return (x, w, normal(*classes, seed=2, **kind)) if bias else (x, w)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 2, 16])
def test_linear_cross_entropy(backend, device, dtype, size, chunk_rows):
    rows, inner, classes = size
    if chunk_rows == 2 and rows > 8:
        pytest.skip("many chunks of few rows are enough of these")
    calls = of(targets(rows, classes=classes, device=device), chunk_rows=chunk_rows)
    harness.matches_float64(*calls, operands(rows, inner, classes, dtype=dtype, device=device), backend, long_sums=True)


@every_backend
def test_linear_cross_entropy_large(backend, device):
    """Enough for products of our own, where the processor has them."""
    calls = of(targets(97, classes=530, device=device))
    harness.matches_float64(*calls, operands(97, 520, 530, device=device), backend, long_sums=True)


@every_backend
@every_dtype
@every_option
@probable
def test_linear_cross_entropy_options(backend, device, dtype, options, probable):
    rows, classes = 11, 70
    target = probabilities(rows, classes, device=device) if probable else targets(rows, classes=classes, device=device)
    inputs = operands(rows, 24, classes, dtype=dtype, device=device, bias=True)
    harness.matches_float64(*of(target, bias=True, chunk_rows=4, **options), inputs, backend, long_sums=True)


@every_backend
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@probable
def test_linear_cross_entropy_dimensions(backend, device, reduction, dtype, probable):
    """Further dimensions of the linear weight are those of the targets of a row."""
    for rest in ((), (3,), (2, 3)):
        inputs = operands(5, 8, 6, *rest, dtype=dtype, device=device, bias=True)
        target = probabilities(5, 6, *rest, device=device, dim=1) if probable else targets(5, *rest, classes=6, device=device)
        calls = of(target, bias=True, weight=True, reduction=reduction, label_smoothing=0.1, chunk_rows=2)
        harness.matches_float64(*calls, inputs, backend, long_sums=True)
    x, w = operands(1, 8, 6, dtype=dtype, device=device)
    target = probabilities(6, device=device) if probable else torch.tensor(4, device=device)
    harness.matches_float64(*of(target, reduction=reduction), (x[0], w), backend, long_sums=True)


@every_backend
@every_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_cross_entropy_strides(backend, device, layout, dtype):
    x, w, bias = (layout(one) for one in operands(5, 16, 24, dtype=dtype, device=device, bias=True))
    target = targets(10, classes=24, device=device, ignored=False)[::2]
    harness.matches_float64(*of(target, bias=True), (x, w, bias), backend, long_sums=True)
    soft = layout(probabilities(5, 24, device=device))
    harness.matches_float64(*of(soft, bias=True, reduction="none"), (x, w, bias), backend, long_sums=True)


@every_backend
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@probable
def test_linear_cross_entropy_agrees_with_torch(backend, device, reduction, probable):
    x, w, bias = operands(9, 16, 20, device=device, bias=True)
    target = probabilities(9, 20, device=device).float() if probable else targets(9, classes=20, device=device)
    options = dict(weight=1 + torch.arange(20, device=device) / 4, label_smoothing=0.1, reduction=reduction)
    leaves = [one.clone().requires_grad_() for one in (x, w, bias)]
    with pylayers.backend(backend):
        y = functional.linear_cross_entropy(leaves[0], leaves[1], target, linear_bias=leaves[2], chunk_rows=4, **options)
        ours = torch.autograd.grad((y * torch.arange(1, 1 + y.numel(), device=device).view(y.shape)).sum(), leaves)
    other = F.cross_entropy(F.linear(*leaves), target, **options)
    theirs = torch.autograd.grad((other * torch.arange(1, 1 + y.numel(), device=device).view(y.shape)).sum(), leaves)
    torch.testing.assert_close(y, other)
    torch.testing.assert_close(ours, theirs)


@every_backend
def test_linear_cross_entropy_of_16_bits_has_logits_of_32(backend, device):
    """A rounded logit of 100 is wrong by up to 0.25, and so would the loss be."""
    x, w = (one.bfloat16() for one in operands(64, 64, 1000, device=device))
    w = w * 16
    target = targets(64, classes=1000, device=device, ignored=False)
    with pylayers.backend(backend):
        y = torch.ops.pylayers.linear_cross_entropy(x, w, target, dtype=torch.float32)
    exact = F.cross_entropy(x.double() @ w.double().T, target)
    assert abs(y.double() - exact) < 1e-4 * exact


@every_backend
def test_linear_cross_entropy_all_ignored(backend, device):
    leaves = [one.requires_grad_() for one in operands(4, 8, 9, device=device)]
    target = torch.full((4,), IGNORED, device=device)
    for reduction, expected in (("mean", NAN), ("sum", 0.0), ("none", torch.zeros(4))):
        with pylayers.backend(backend):
            y = functional.linear_cross_entropy(*leaves, target, reduction=reduction)
            gradients = torch.autograd.grad(y.sum(), leaves)
        torch.testing.assert_close(y.detach().cpu(), torch.as_tensor(expected), equal_nan=True)
        assert all(torch.equal(one, torch.zeros_like(one)) for one in gradients)


@every_backend
def test_linear_cross_entropy_empty(backend, device):
    x, w = torch.empty(0, 5, device=device, requires_grad=True), normal(4, 5, device=device).requires_grad_()
    target = torch.empty(0, dtype=torch.int64, device=device)
    with pylayers.backend(backend):
        assert functional.linear_cross_entropy(x, w, target).isnan()
        assert functional.linear_cross_entropy(x, w, target, reduction="none").shape == (0,)
        functional.linear_cross_entropy(x, w, target, reduction="sum").backward()
    assert x.grad.shape == x.shape and torch.equal(w.grad, torch.zeros_like(w))


@every_backend
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_linear_cross_entropy_not_finite(backend, device, reduction):
    """What is not finite reaches the loss of its own row, and that of an infinite weight all of them."""
    x, w = operands(5, 8, 6, device=device)
    x[2, 3] = NAN
    target = torch.tensor([1, 2, 3, 4, 5], device=device)
    with pylayers.backend(backend):
        y = functional.linear_cross_entropy(x, w, target, reduction="none", chunk_rows=2)
        assert y.isnan().tolist() == [False, False, True, False, False]
        w[3, 0] = INF
        assert functional.linear_cross_entropy(x, w, target, reduction=reduction).isnan().any()


# ---- gradients: each as it is asked for


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_cross_entropy_frozen(frozen, reduction):
    """What is frozen costs nothing: there is no product for it, and no memory of its size."""
    inputs = operands(24, 8, 12, bias=True)
    target = targets(24, classes=12)
    leaves = [one.clone().requires_grad_(i not in frozen) for i, one in enumerate(inputs)]
    with torch.profiler.profile() as profiler:
        functional.linear_cross_entropy(*leaves[:2], target, linear_bias=leaves[2], reduction=reduction, chunk_rows=24).sum().backward()
    products = sum(event.count for event in profiler.key_averages() if event.key in ("aten::mm", "aten::addmm"))
    assert products == 1 + (reduction == "none") + (0 not in frozen) + (1 not in frozen)
    others = [one.clone().requires_grad_(i not in frozen) for i, one in enumerate(inputs)]
    F.cross_entropy(F.linear(*others), target, reduction=reduction).sum().backward()
    for i, (one, other) in enumerate(zip(leaves, others, strict=True)):
        assert (one.grad is None) == (i in frozen)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_linear_cross_entropy_without_gradients_saves_nothing():
    x, w = operands(8, 16, 50)
    assert functional.linear_cross_entropy(x, w, targets(8, classes=50)).grad_fn is None
    with torch.no_grad():
        assert functional.linear_cross_entropy(x.requires_grad_(), w, targets(8, classes=50)).grad_fn is None


def test_linear_cross_entropy_gradient_is_scaled_each_time():
    """The gradients that wait are not used up: a second backward finds them as they were."""
    x, w = (one.requires_grad_() for one in operands(8, 16, 50))
    y = functional.linear_cross_entropy(x, w, targets(8, classes=50))
    first = torch.autograd.grad(y, (x, w), torch.tensor(1.0), retain_graph=True)
    second = torch.autograd.grad(y, (x, w), torch.tensor(-3.0), retain_graph=True)
    third = torch.autograd.grad(y, (x, w), torch.tensor(1.0))
    for a, b, c in zip(first, second, third, strict=True):
        torch.testing.assert_close(b, -3 * a)
        assert torch.equal(a, c)


def test_linear_cross_entropy_sums_the_gradient_of_the_weight_in_float32():
    """256 chunks of one row: sums of bfloat16 would stop growing at 256 times their terms."""
    rows = 512
    x, w = torch.ones(rows, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    functional.linear_cross_entropy(x, w, torch.zeros(rows, dtype=torch.int64), reduction="sum", chunk_rows=1).backward()
    assert w.grad.flatten().tolist() == [-rows / 2, rows / 2]


def test_linear_cross_entropy_memory():
    """Beyond gradients and their sum, a chunk of logits and little else."""
    from pylayers.benchmarks.memory import peak_bytes

    rows, inner, classes, chunk = 512, 32, 4000, 64
    x, w = (one.requires_grad_() for one in operands(rows, inner, classes))
    target = targets(rows, classes=classes)

    def step():
        functional.linear_cross_entropy(x, w, target, chunk_rows=chunk).backward()
        x.grad = w.grad = None

    step()
    peak = peak_bytes(step, x.device)
    kept = 2 * (x.nbytes + w.nbytes)
    assert peak is None or peak <= kept + chunk * classes * 4 + (1 << 18)


@every_option
@probable
def test_linear_cross_entropy_derivatives(options, probable):
    target = probabilities(3, 4) if probable else torch.tensor([1, IGNORED, 0])
    harness.derivatives_hold(of(target, bias=True, **options)[0], operands(3, 5, 4, bias=True))


def test_linear_cross_entropy_gradients_of_weight_and_probabilities():
    x, w, p, classes = (one.double().requires_grad_() for one in (*operands(3, 5, 4), probabilities(3, 4), normal(4).abs()))
    call = functional.linear_cross_entropy
    torch.autograd.gradcheck(lambda a, b, c, d: call(a, b, c, weight=d, label_smoothing=0.1), (x, w, p, classes))


def test_linear_cross_entropy_transforms():
    for target in (probabilities(3, 4).double(), torch.tensor([1, IGNORED, 0])):
        call = [lambda x, w, of=module.linear_cross_entropy, t=target: of(x, w, t, z_loss=0.1) for module in (functional, reference)]
        harness.transforms_match(*call, operands(3, 5, 4))


def test_linear_cross_entropy_compiles():
    classes = 1 + torch.arange(6.0)

    def every(x, w, bias):
        target = torch.arange(x.shape[0]) * 5 % 6
        call = functional.linear_cross_entropy
        smoothed = call(x, w, target, linear_bias=bias, weight=classes, label_smoothing=0.1, z_loss=0.1, softcap=3.0)
        return call(x, w, target, reduction="none") + smoothed

    harness.compiles(every, operands(4, 5, 6, bias=True))


@pytest.mark.parametrize("grad", [False, True])
def test_linear_cross_entropy_opcheck(grad):
    x, w, bias = (one.requires_grad_(grad) for one in operands(5, 8, 6, bias=True))
    target, classes = targets(5, classes=6), torch.rand(6)
    for reduction in ("none", "mean", "sum"):
        harness.passes_opcheck("linear_cross_entropy", x, w, target, bias, classes, reduction, IGNORED, 0.1, 0.1, 2.0, 2)
    harness.passes_opcheck("linear_cross_entropy", x, w, probabilities(5, 6).float())
    wide = normal(6, 3, 8).requires_grad_(grad)
    harness.passes_opcheck("linear_cross_entropy", x, wide, targets(5, 3, classes=6), None, None, "none")
    plain = (x.detach(), w.detach(), target, bias.detach(), classes, IGNORED, 0.1, 0.1, 0.0, 2)
    for mask in ([False] * 3, [True, False, True], [True] * 3):
        harness.passes_opcheck("linear_cross_entropy_forward", *plain, mask)
    loss, *saved = torch.ops.pylayers.linear_cross_entropy_forward(*plain, [True] * 3)
    one = torch.tensor(2.0, requires_grad=grad)
    for incoming, total in ((one, torch.tensor(4.0)), (one, None), (loss.clone().requires_grad_(grad), None)):
        arguments = (incoming, x, w, target, bias, classes, *saved, total, IGNORED, 0.1, 0.1, 0.0, 2, [True] * 3)
        harness.passes_opcheck("linear_cross_entropy_backward", *arguments)


def test_linear_cross_entropy_autocast():
    x, w = (one.requires_grad_() for one in operands(5, 8, 6))
    target = targets(5, classes=6)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.linear_cross_entropy(x, w, target, weight=torch.ones(6))
    assert y.dtype == torch.float32
    expected = F.cross_entropy(F.linear(x.bfloat16().float(), w.bfloat16().float()), target)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y.backward()
    assert x.grad.dtype == w.grad.dtype == torch.float32


# ---- the module

torch_has_it = pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyLoss"), reason="torch 2.13 and later have this loss")


@torch_has_it
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"out_features": (2, 3)}, {"weight": torch.tensor([1.0, 2, 3, 4, 5, 6])}, {"reduction": "none", "label_smoothing": 0.1}, {"ignore_index": 2}],
    ids=" ".join,
)
def test_linear_cross_entropy_loss_is_that_of_torch(options):
    x, target = normal(4, 8), targets(4, *options.get("out_features", ()), classes=6).clamp(min=0)
    made = []
    for cls in (pylayers.LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss):
        torch.manual_seed(3)
        made.append(cls(8, 6, **options))
    ours, theirs = made
    harness.state_exchanges(ours, theirs)
    torch.testing.assert_close(ours(x, target), theirs(x, target))


@torch_has_it
def test_linear_cross_entropy_loss_takes_options_of_torch():
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    loss = pylayers.LinearCrossEntropyLoss(8, 6, options=options)
    assert loss.config()["chunk_rows"] == 2
    x, target = normal(5, 8), targets(5, classes=6)
    torch.testing.assert_close(loss(x, target), F.cross_entropy(loss.linear(x), target))


class WithTarget(torch.nn.Module):
    """A loss of what the linear map is applied to, alone."""

    def __init__(self, **kind):
        super().__init__()
        self.loss = pylayers.LinearCrossEntropyLoss(8, 6, bias=True, label_smoothing=0.1, reduction="sum", **kind)

    def reset_parameters(self):
        self.loss.reset_parameters()

    def forward(self, input):
        return self.loss(input, torch.arange(len(input), device=input.device) * 5 % 6)


def test_linear_cross_entropy_loss_contract():
    harness.keeps_the_module_contract(lambda **kind: WithTarget(**kind), normal(5, 8))


def test_linear_cross_entropy_loss_shares_its_weight():
    embedding, loss = torch.nn.Embedding(6, 8), pylayers.LinearCrossEntropyLoss(8, 6)
    loss.linear.weight = embedding.weight
    tokens = torch.tensor([1, 2, 5])
    loss(embedding(tokens), tokens).backward()
    both = embedding.weight.grad.clone()
    embedding.weight.grad = None
    F.cross_entropy(embedding(tokens) @ embedding.weight.T, tokens).backward()
    torch.testing.assert_close(both, embedding.weight.grad)


def test_lazy_linear_cross_entropy_loss():
    torch.manual_seed(3)
    lazy = pylayers.LazyLinearCrossEntropyLoss(6, bias=True, softcap=2.0)
    x, target = normal(4, 8), targets(4, classes=6)
    y = lazy(x, target)
    torch.manual_seed(3)
    plain = pylayers.LinearCrossEntropyLoss(8, 6, bias=True, softcap=2.0)
    assert type(lazy) is pylayers.LinearCrossEntropyLoss and type(lazy.linear) is pylayers.Linear
    assert torch.equal(y, plain(x, target))
    again = pylayers.LazyLinearCrossEntropyLoss(6, bias=True, softcap=2.0)
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again(x, target), y)


def test_linear_cross_entropy_loss_repr():
    assert repr(pylayers.LinearCrossEntropyLoss(8, 6, z_loss=0.1)).startswith("LinearCrossEntropyLoss(\n  num_classes=6, z_loss=0.1\n  (linear)")


# ---- wrong arguments


@pytest.mark.parametrize("wrong", [6, -1, 2**40])
def test_linear_cross_entropy_target_out_of_range(wrong):
    x, w = (one.requires_grad_() for one in operands(3, 8, 6))
    for call in (functional.linear_cross_entropy, torch.compile(functional.linear_cross_entropy, backend="aot_eager")):
        with pytest.raises(IndexError, match=f"linear_cross_entropy: target {wrong} is none of the 6 classes"):
            call(x, w, torch.tensor([0, wrong, 1]))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, w, t, f: f(3, w, t), TypeError, "linear_cross_entropy: input must be a Tensor, got int"),
        (lambda x, w, t, f: f(x.long(), w, t), TypeError, "linear_cross_entropy: input must be float64"),
        (lambda x, w, t, f: f(x, w.half(), t), TypeError, "linear_weight must have the dtype of input (Float), got Half"),
        (lambda x, w, t, f: f(x, w, t.int()), TypeError, "target must be int64, or probabilities"),
        (lambda x, w, t, f: f(x[None], w, t), ValueError, "input must have shape (in_features,) or (batch, in_features), got [1, 2, 4]"),
        (lambda x, w, t, f: f(x, w[0], t), ValueError, "linear_weight must have shape (classes, in_features)"),
        (lambda x, w, t, f: f(x[0], w[:, None], t[0]), ValueError, "a linear_weight of 3 dimensions needs an input of shape (batch"),
        (lambda x, w, t, f: f(x[:, :3], w, t), ValueError, "the last dimension of input must be 4 (in_features of linear_weight)"),
        (lambda x, w, t, f: f(x, w, t[:1]), ValueError, "target must have shape [2] (the logits without their classes), got [1]"),
        (lambda x, w, t, f: f(x, w, t, linear_bias=x[0]), ValueError, "linear_bias must have shape [3] (linear_weight without in_features)"),
        (lambda x, w, t, f: f(x, w, t, weight=x[0]), ValueError, "weight must have shape (3,) (the classes), got [4]"),
        (lambda x, w, t, f: f(x, w, t, chunk_rows=0), ValueError, "chunk_rows must be positive, or None"),
        (lambda x, w, t, f: f(x, w, t, reduction="max"), ValueError, 'reduction must be "none", "mean" or "sum", got "max"'),
        (lambda x, w, t, f: f(x, w, x[:, :3], ignore_index=1), ValueError, "ignore_index names a class"),
        (lambda x, w, t, f: f(x, w.to("meta"), t), RuntimeError, "linear_weight must be on the device of input (cpu), got meta"),
        (lambda x, w, t, f: pylayers.LinearCrossEntropyLoss(4, 3, weight=x[0]), ValueError, "weight must have shape (3,), got (4,)"),
        (lambda x, w, t, f: pylayers.LinearCrossEntropyLoss(4, 3, label_smoothing=2), ValueError, "label_smoothing must be between 0 and 1"),
    ],
)
def test_linear_cross_entropy_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 4), torch.ones(3, 4), torch.tensor([0, 2]), functional.linear_cross_entropy)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
