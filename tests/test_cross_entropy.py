import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal, seeded  # noqa: F401
from pylayers import functional, reference
from torch.nn import functional as F

import pylayers

INF, NAN = float("inf"), float("nan")
IGNORED = -100
# [rows, classes]: around the widths at which kernels change their path, multiples of nothing.
SIZES = [(1, 1), (3, 7), (2, 8), (9, 100), (65, 33), (5, 1024), (2, 3001), (2, 17001), (1, 40000)]

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weight": {"weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing and weight": {"label_smoothing": 0.3, "weight": True},
    "z_loss": {"z_loss": 0.01},
    "softcap": {"softcap": 2.0},
    "all": {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 1.5, "weight": True, "reduction": "sum"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
probable = pytest.mark.parametrize("probable", [False, True], ids=["classes", "probabilities"])


def targets(*shape, classes, device="cpu", ignored=True):
    target = torch.randint(classes, shape, generator=seeded(device, sum(shape)), device=device)
    if ignored and target.numel() > 2:
        target.view(-1)[1::5] = IGNORED
    return target


def probabilities(*shape, device="cpu", dim=-1):
    """Such as every dtype holds exactly."""
    return torch.softmax(normal(*shape, device=device, seed=3), dim).bfloat16()


def of(target, weight=False, **options):
    """Ours and the definition as functions of logits. Both are called in several dtypes."""

    def on(call):
        def function(x):
            classes = x.shape[0 if x.dim() == 1 else 1]
            w = 0.5 + torch.arange(classes, device=x.device) % 7 / 4
            t = target.to(x.dtype) if target.is_floating_point() else target
            return call(x, t, w.to(x.dtype) if weight else None, **options)

        return function

    return on(functional.cross_entropy), on(reference.cross_entropy)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cross_entropy(backend, device, dtype, size):
    x = 3 * normal(*size, dtype=dtype, device=device)
    harness.matches_float64(*of(targets(size[0], classes=size[1], device=device)), (x,), backend)


@every_backend
@every_dtype
@every_option
@probable
def test_cross_entropy_options(backend, device, dtype, options, probable):
    rows, classes = 11, 70
    target = probabilities(rows, classes, device=device) if probable else targets(rows, classes=classes, device=device)
    harness.matches_float64(*of(target, **options), (2 * normal(rows, classes, dtype=dtype, device=device),), backend)


@every_backend
@pytest.mark.parametrize("name", ["all", "smoothing and weight"])
@probable
def test_cross_entropy_options_of_long_rows(backend, device, name, probable):
    rows, classes = 3, 20003
    target = probabilities(rows, classes, device=device) if probable else targets(rows, classes=classes, device=device)
    harness.matches_float64(*of(target, **OPTIONS[name]), (2 * normal(rows, classes, device=device),), backend, long_sums=True)


@every_backend
@pytest.mark.parametrize("reduction", ["none", "mean"])
@probable
def test_cross_entropy_dimensions(backend, device, reduction, probable):
    """Classes are the second dimension, or the only one."""
    for shape in ((6,), (4, 6), (4, 6, 3), (2, 6, 3, 5), (1, 6, 1, 1)):
        rest = (shape[0], *shape[2:]) if len(shape) > 1 else ()
        dim = 0 if len(shape) == 1 else 1
        target = probabilities(*shape, device=device, dim=dim) if probable else targets(*rest, classes=6, device=device)
        options = dict(reduction=reduction, label_smoothing=0.1)
        ours, exact = of(target, **options)
        x = normal(*shape, device=device)
        harness.matches_float64(ours, exact, (x,), backend)
        with pylayers.backend(backend):
            y = ours(x)
        torch.testing.assert_close(y, F.cross_entropy(x, target.to(x.dtype) if probable else target, **options))


@every_backend
@every_dtype
@every_layout
def test_cross_entropy_strides(backend, device, dtype, layout):
    x = layout(normal(5, 24, dtype=dtype, device=device))
    target = targets(10, classes=24, device=device, ignored=False)[::2]
    harness.matches_float64(*of(target, label_smoothing=0.1), (x,), backend)
    harness.matches_float64(*of(layout(probabilities(5, 24, device=device)), reduction="none"), (x,), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@every_option
@probable
def test_cross_entropy_agrees_with_torch(backend, device, dtype, options, probable):
    options = {name: value for name, value in options.items() if name not in ("z_loss", "softcap")}
    x = normal(9, 20, dtype=dtype, device=device)
    target = probabilities(9, 20, device=device).to(dtype) if probable else targets(9, classes=20, device=device)
    if options.pop("weight", False):
        options["weight"] = 1 + torch.arange(20, dtype=dtype, device=device) / 4
    found = []
    for call in (functional.cross_entropy, F.cross_entropy):
        leaf = x.clone().requires_grad_()
        with pylayers.backend(backend):
            y = call(leaf, target, **options)
            (2 * y).sum().backward()
        found.append((y.detach(), leaf.grad))
    (y, dx), (expected, gradient) = found
    assert y.dtype == expected.dtype and y.shape == expected.shape
    if dtype == torch.float32:  # torch rounds logarithms to 16 bits on the way
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(dx, gradient)


@every_backend
def test_cross_entropy_all_ignored(backend, device):
    x = normal(4, 9, device=device).requires_grad_()
    target = torch.full((4,), IGNORED, device=device)
    for reduction, expected in (("mean", NAN), ("sum", 0.0), ("none", torch.zeros(4))):
        with pylayers.backend(backend):
            y = functional.cross_entropy(x, target, reduction=reduction)
        torch.testing.assert_close(y.detach().cpu(), torch.as_tensor(expected), equal_nan=True)
        theirs = F.cross_entropy(x, target, reduction=reduction)
        torch.testing.assert_close(y, theirs, equal_nan=True)
    with pylayers.backend(backend):
        (dx,) = torch.autograd.grad(functional.cross_entropy(x, target, reduction="sum", label_smoothing=0.1), x)
    assert torch.equal(dx, torch.zeros_like(x))


@every_backend
@pytest.mark.parametrize("classes", [30, 20000])
@pytest.mark.parametrize("ignore_index", [IGNORED, 3])
def test_cross_entropy_ignored_rows_are_not_read(backend, device, classes, ignore_index):
    x = normal(4, classes, device=device)
    x[1] = NAN
    x[3, 5] = INF
    target = torch.tensor([2, ignore_index, 4, ignore_index], device=device)
    leaf = x.clone().requires_grad_()
    with pylayers.backend(backend):
        y = functional.cross_entropy(leaf, target, ignore_index=ignore_index, label_smoothing=0.1, z_loss=0.1)
        y.backward()
    kept = x[[0, 2]].requires_grad_()
    expected = reference.cross_entropy(kept, target[[0, 2]], label_smoothing=0.1, z_loss=0.1)
    expected.backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(leaf.grad[[0, 2]], kept.grad)
    assert torch.equal(leaf.grad[[1, 3]], torch.zeros_like(x[[1, 3]]))


@every_backend
@every_dtype
@pytest.mark.parametrize("long", [1, 20000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_not_finite(backend, device, dtype, long, smoothing):
    """As torch has it: rows of −inf alone, with +inf or with a nan are nan, −inf for the target is infinitely far."""
    if long > 1 and backend == "triton" and dtype != torch.float32:
        pytest.skip("one long path is enough")
    ends = [[-INF, -INF], [0.0, INF], [INF, INF], [NAN, 0.0], [0.0, NAN], [-INF, NAN], [-INF, 1.0], [2.0, -INF]]
    rows = torch.tensor(ends, dtype=dtype, device=device)
    rows = torch.cat([rows[:, :1], torch.full((8, 7 * long), -INF, dtype=dtype, device=device), rows[:, 1:]], 1)
    target = torch.zeros(8, dtype=torch.int64, device=device)
    found = []
    for call in (functional.cross_entropy, F.cross_entropy):
        leaf = rows.clone().requires_grad_()
        with pylayers.backend(backend):
            y = call(leaf, target, reduction="none", label_smoothing=smoothing)
            y.sum().backward()
        found.append((y.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0], equal_nan=True)
    if smoothing == 0:
        torch.testing.assert_close(found[0][1], found[1][1], equal_nan=True)


@every_backend
@every_dtype
def test_cross_entropy_far_from_zero(backend, device, dtype):
    x = torch.tensor([[-1e4, -1e4, -1e4], [1e4, -1e4, 0.0], [-200.0, -100.0, 0.0], [1e4, 9984.0, 0.0]], dtype=dtype, device=device)
    target = torch.tensor([0, 0, 1, 1], device=device)
    for options in ({}, {"label_smoothing": 0.1}, {"softcap": 30.0}):
        harness.matches_float64(*of(target, reduction="none", **options), (x,), backend)


@every_backend
def test_cross_entropy_finds_a_maximum_anywhere(backend, device):
    """Each row has it at another place, so far above the others that its exponential alone would overflow."""
    x = normal(70, 70, device=device) + 300 * torch.eye(70, device=device)
    harness.matches_float64(*of(torch.arange(70, device=device).roll(1)), (x,), backend)
    harness.matches_float64(*of(torch.arange(70, device=device), label_smoothing=0.1), (x,), backend)


@every_backend
def test_cross_entropy_empty(backend, device):
    x = torch.empty(0, 5, device=device, requires_grad=True)
    target = torch.empty(0, dtype=torch.int64, device=device)
    with pylayers.backend(backend):
        assert functional.cross_entropy(x, target).isnan()
        assert functional.cross_entropy(x, target, reduction="none").shape == (0,)
        y = functional.cross_entropy(x, target, reduction="sum")
        y.backward()
    assert y == 0 and x.grad.shape == x.shape


@every_backend
def test_cross_entropy_gradient_of_gradient_scale(backend, device):
    """Every row of a loss that is not reduced has a gradient of its own; a reduced one has one number."""
    x, target = normal(6, 30, device=device), targets(6, classes=30, device=device)
    grad = normal(6, device=device)
    leaf = x.clone().requires_grad_()
    with pylayers.backend(backend):
        functional.cross_entropy(leaf, target, reduction="none").backward(grad)
    other = x.clone().requires_grad_()
    F.cross_entropy(other, target, reduction="none").backward(grad)
    torch.testing.assert_close(leaf.grad, other.grad)


# ---- what every op promises


def test_cross_entropy_saves_logits_and_a_few_numbers_a_row():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        x = normal(8, 50).requires_grad_()
        functional.cross_entropy(x, targets(8, classes=50))
    assert [one.data_ptr() for one in saved if one.numel() > 8] == [x.data_ptr()]


def test_cross_entropy_needs_no_gradient_of_what_nobody_asks():
    x = normal(8, 50)
    assert functional.cross_entropy(x, targets(8, classes=50)).grad_fn is None


def test_cross_entropy_edited_logits_are_noticed():
    x = normal(8, 50).requires_grad_()
    z = x * 1
    y = functional.cross_entropy(z, targets(8, classes=50))
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@every_option
@probable
def test_cross_entropy_derivatives(options, probable):
    target = probabilities(3, 4) if probable else torch.tensor([1, IGNORED, 0])
    harness.derivatives_hold(of(target, **options)[0], (normal(3, 4),))


def test_cross_entropy_gradients_of_weight_and_probabilities():
    x, w, p = (one.double().requires_grad_() for one in (normal(3, 4), normal(4).abs(), probabilities(3, 4)))
    torch.autograd.gradcheck(lambda *a: functional.cross_entropy(a[0], a[1], a[2], label_smoothing=0.1), (x, p, w))
    torch.autograd.gradcheck(lambda a, b: functional.cross_entropy(a, torch.tensor([0, 3, 1]), b), (x, w))


def test_cross_entropy_transforms():
    for target in (probabilities(3, 4).double(), torch.tensor([1, IGNORED, 0])):
        call = [lambda x, of=module.cross_entropy, target=target: of(x, target, z_loss=0.1) for module in (functional, reference)]
        harness.transforms_match(*call, (normal(3, 4),))
    x, target = normal(5, 3, 4), torch.randint(4, (5, 3), generator=seeded())
    each = torch.func.vmap(torch.func.grad(functional.cross_entropy))(x, target)
    expected = torch.stack([torch.func.grad(F.cross_entropy)(a, b) for a, b in zip(x, target, strict=True)])
    torch.testing.assert_close(each, expected)


def test_cross_entropy_compiles():
    w = 1 + torch.arange(6.0)

    def every(x):
        target = torch.arange(x.shape[0])[:, None] * 5 % 6 * torch.ones(3, dtype=torch.int64)
        smoothed = functional.cross_entropy(x, target, w, label_smoothing=0.1, z_loss=0.1, softcap=3.0)
        return functional.cross_entropy(x, target, reduction="none") + smoothed

    harness.compiles(every, (normal(4, 6, 3),))


@pytest.mark.parametrize("grad", [False, True])
def test_cross_entropy_opcheck(grad):
    x, target, w = normal(5, 8).requires_grad_(grad), targets(5, classes=8), torch.rand(8)
    for reduction in ("none", "mean", "sum"):
        harness.passes_opcheck("cross_entropy", x, target, w, reduction, IGNORED, 0.1, 0.1, 2.0)
    harness.passes_opcheck("cross_entropy", x, probabilities(5, 8).float())
    harness.passes_opcheck("cross_entropy", normal(5, 8, 3).requires_grad_(grad), targets(5, 3, classes=8))
    plain = (x.detach(), target, w, IGNORED, 0.1, 0.1, 0.0)
    harness.passes_opcheck("cross_entropy_forward", *plain)
    loss, *saved = torch.ops.pylayers.cross_entropy_forward(*plain)
    harness.passes_opcheck("cross_entropy_backward", loss.requires_grad_(grad), x, target, w, *saved, IGNORED, 0.1, 0.1, 0.0)


def test_cross_entropy_autocast():
    x, target = normal(5, 8, dtype=torch.bfloat16).requires_grad_(), targets(5, classes=8)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.cross_entropy(x, target, torch.ones(8))
        assert y.dtype == F.cross_entropy(x, target).dtype == torch.float32
        assert functional.cross_entropy(x, probabilities(5, 8).float()).dtype == torch.float32
    torch.testing.assert_close(y, F.cross_entropy(x.float(), target))
    y.backward()
    assert x.grad.dtype == torch.bfloat16


def test_cross_entropy_loss():
    x, target = normal(5, 8), targets(5, classes=8)
    for options in ({}, {"weight": torch.rand(8)}, {"ignore_index": 2}, {"reduction": "none"}, {"label_smoothing": 0.1}):
        ours, theirs = pylayers.CrossEntropyLoss(**options), torch.nn.CrossEntropyLoss(**options)
        given = target if options.get("ignore_index", IGNORED) == IGNORED else target.clamp(min=0)
        torch.testing.assert_close(ours(x, given), theirs(x, given))
        if "weight" in options:
            harness.state_exchanges(ours, theirs)
    with pytest.warns(UserWarning, match="size_average"):
        assert pylayers.CrossEntropyLoss(size_average=False).reduction == "sum"
    with pytest.warns(UserWarning, match="reduce"):
        assert functional.cross_entropy(x, target, reduce=False).shape == (5,)
    text = repr(pylayers.CrossEntropyLoss(label_smoothing=0.1, z_loss=1e-4, softcap=30.0))
    assert text == "CrossEntropyLoss(label_smoothing=0.1, z_loss=0.0001, softcap=30.0)"
    assert repr(pylayers.CrossEntropyLoss()) == "CrossEntropyLoss()"


class WithTarget(torch.nn.Module):
    """A loss of logits alone."""

    def __init__(self, **kind):
        super().__init__()
        self.loss = pylayers.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")

    def forward(self, input):
        return self.loss(input, torch.arange(len(input), device=input.device) * 5 % input.shape[1])


def test_cross_entropy_loss_contract():
    harness.keeps_the_module_contract(lambda **kind: WithTarget(**kind), normal(5, 8))


@every_backend
@every_dtype
@pytest.mark.parametrize("dim", [8, 20000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_no_class_on_a_gpu(backend, device, dtype, dim, smoothing):
    """A GPU is not waited for: the loss of such a row is nan, and its gradient, and nothing outside of the logits is read."""
    x = normal(5, dim, dtype=dtype, device=device).requires_grad_()
    target = torch.tensor([-1, dim - 1, dim, -(2**40), 2**40], device=device)
    with pylayers.backend(backend):
        try:
            y = functional.cross_entropy(x, target, reduction="none", label_smoothing=smoothing)
        except IndexError:
            return  # the CPU looks at targets first
        y.sum().backward()
    wrong = [True, False, True, True, True]
    assert y.isnan().tolist() == wrong and x.grad.isnan().all(1).tolist() == wrong and x.grad.isnan().any(1).tolist() == wrong


@pytest.mark.parametrize("wrong", [8, -1, -101, 2**40, -(2**40)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_target_out_of_range(wrong, smoothing):
    x, target = normal(5, 8).requires_grad_(), torch.tensor([0, 1, 2, wrong, 3])
    for call in (functional.cross_entropy, torch.compile(functional.cross_entropy, backend="aot_eager")):
        with pytest.raises(IndexError, match=f"target {wrong} is none of the 8 classes"):
            call(x, target, label_smoothing=smoothing)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x, t, f: f(3, t), TypeError, "cross_entropy: input must be a Tensor, got int"),
        (lambda x, t, f: f(x.long(), t), TypeError, "cross_entropy: input must be float64"),
        (lambda x, t, f: f(x, [1, 2]), TypeError, "target must be a Tensor, got list"),
        (lambda x, t, f: f(x, t.int()), TypeError, "target must be int64, or probabilities in the dtype of input, got Int"),
        (lambda x, t, f: f(x, x.half()), TypeError, "a target of probabilities must have the dtype of input (Float), got Half"),
        (lambda x, t, f: f(x[0, 0], t), ValueError, "input must have shape (classes), (batch, classes)"),
        (lambda x, t, f: f(x, t[:1]), ValueError, "target must have shape [2] (the logits without their classes), got [1]"),
        (lambda x, t, f: f(x, x[:1]), ValueError, "a target of probabilities must have the shape of the logits [2, 3], got [1, 3]"),
        (lambda x, t, f: f(x[:, :0], t), ValueError, "there must be at least one class, got logits of shape [2, 0]"),
        (lambda x, t, f: f(x, t, x[0, :2]), ValueError, "weight must have shape (3,) (the classes), got [2]"),
        (lambda x, t, f: f(x, t, x[0].double()), TypeError, "weight must have the dtype of input (Float), got Double"),
        (lambda x, t, f: f(x, t, label_smoothing=1.5), ValueError, "label_smoothing must be between 0 and 1, got 1.5"),
        (lambda x, t, f: f(x, t, softcap=0.0), ValueError, "softcap must be positive, or None for none, got 0"),
        (lambda x, t, f: f(x, t, reduction="max"), ValueError, 'reduction must be "none", "mean" or "sum", got "max"'),
        (lambda x, t, f: f(x, x, ignore_index=1), ValueError, "ignore_index must be negative for a target of probabilities"),
        (lambda x, t, f: f(x, t.to("meta")), RuntimeError, "target must be on the device of input (cpu), got meta"),
    ],
)
def test_cross_entropy_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(torch.ones(2, 3), torch.tensor([0, 2]), functional.cross_entropy)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
