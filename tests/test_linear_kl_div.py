import harness
import pytest
import torch
from harness import every_backend, every_dtype, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from torch.nn import functional as F

import pylayers

# [rows, student's width, classes]
SIZES = [(1, 1, 1), (3, 5, 7), (9, 8, 100), (70, 16, 1001)]
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "mean": {"reduction": "mean"},
    "none": {"reduction": "none"},
    "temperature": {"temperature": 2.5},
    "temperature, none, chunks": {"temperature": 0.5, "reduction": "none", "chunk_rows": 4},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def teacher(rows, classes, device="cpu", width=6):
    """Such as every dtype holds."""
    return tuple((normal(*size, device=device, seed=9) / 2).bfloat16() for size in ((rows, width), (classes, width), (classes,)))


def of(rows, classes, device="cpu", **options):
    """Ours and the definition as functions of the student."""
    hidden, weight, bias = teacher(rows, classes, device)

    def on(call):
        def function(x, w, *b):
            own = [one.to(x.dtype) for one in (hidden, weight, bias)]
            return call(x, w, own[0], own[1], student_bias=b[0] if b else None, teacher_bias=own[2], **options)

        return function

    return on(functional.linear_kl_div), on(reference.linear_kl_div)


def student(rows, width, classes, **kind):
    return normal(rows, width, **kind), normal(classes, width, **kind) * width**-0.5, normal(classes, **kind)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 16])
def test_linear_kl_div(backend, device, dtype, size, chunk_rows):
    inputs = student(*size, dtype=dtype, device=device)
    harness.matches_float64(*of(size[0], size[2], device, chunk_rows=chunk_rows), inputs, backend, long_sums=True)


@every_backend
@every_dtype
@every_option
def test_linear_kl_div_options(backend, device, dtype, options):
    rows, width, classes = 11, 8, 70
    harness.matches_float64(*of(rows, classes, device, **options), student(rows, width, classes, dtype=dtype, device=device)[:2], backend, long_sums=True)


@every_backend
def test_linear_kl_div_only_the_gradient_asked_for(backend, device):
    x, w, b = student(9, 8, 33, device=device)
    ours, exact = of(9, 33, device)
    harness.matches_float64(lambda a: ours(a, w.to(a.dtype)), lambda a: exact(a, w.to(a.dtype)), (x,), backend, long_sums=True)
    harness.matches_float64(lambda a: ours(x.to(a.dtype), a), lambda a: exact(x.to(a.dtype), a), (w,), backend, long_sums=True)


@every_backend
def test_linear_kl_div_agrees_with_torch(backend, device):
    x, w, b = student(9, 8, 33, device=device)
    hidden, weight, bias = (one.float() for one in teacher(9, 33, device))
    with pylayers.backend(backend):
        y = functional.linear_kl_div(x, w, hidden, weight, student_bias=b, teacher_bias=bias, temperature=2.0)
    q, p = F.log_softmax(F.linear(x, w, b) / 2, -1), F.log_softmax(F.linear(hidden, weight, bias) / 2, -1)
    torch.testing.assert_close(y, 4 * F.kl_div(q, p, reduction="batchmean", log_target=True))


@every_backend
def test_a_student_like_its_teacher_has_no_loss(backend, device):
    x, w, b = student(9, 8, 33, device=device)
    with pylayers.backend(backend):
        y = functional.linear_kl_div(x, w, x, w, student_bias=b, teacher_bias=b, reduction="none")
    torch.testing.assert_close(y, torch.zeros(9, device=device), atol=2e-6, rtol=0)


@every_backend
def test_linear_kl_div_empty(backend, device):
    x = torch.empty(0, 4, device=device, requires_grad=True)
    w = normal(5, 4, device=device).requires_grad_()
    with pylayers.backend(backend):
        y = functional.linear_kl_div(x, w, x.detach(), w.detach(), reduction="sum")
        y.backward()
    assert y == 0 and (w.grad == 0).all() and x.grad.shape == (0, 4)


def test_gradients_of_the_teacher():
    x, w, _ = (one.double() for one in student(5, 4, 7))
    leaves = [one.double().requires_grad_() for one in teacher(5, 7, width=4)[:2]]
    found = [torch.autograd.grad(call(x, w, *leaves), leaves) for call in (functional.linear_kl_div, reference.linear_kl_div)]
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_linear_kl_div_derivatives(reduction):
    harness.derivatives_hold(of(3, 5, reduction=reduction, temperature=2.0)[0], student(3, 4, 5))


def test_linear_kl_div_transforms():
    harness.transforms_match(*of(3, 5), student(3, 4, 5)[:2])


def test_linear_kl_div_compiles():
    ours = of(4, 6, reduction="sum")[0]
    harness.compiles(lambda w, x: ours(x, w[:6]), (normal(6, 5), normal(4, 5)))


@pytest.mark.parametrize("grad", [False, True])
def test_linear_kl_div_opcheck(grad):
    x, w, b = (one.requires_grad_(grad) for one in student(4, 5, 6))
    hidden, weight, bias = (one.float() for one in teacher(4, 6))
    harness.passes_opcheck("linear_kl_div", x, w, hidden, weight, b, bias, 2.0, "batchmean", None, None)


def test_linear_kl_div_autocast():
    x, w, b = student(4, 6, 8)
    hidden, weight, bias = (one.float() for one in teacher(4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.linear_kl_div(x, w, hidden, weight, student_bias=b, teacher_bias=bias)
    own = [one.bfloat16() for one in (x, w, hidden, weight, b, bias)]
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reference.linear_kl_div(*own, dtype=torch.float32), atol=1e-4, rtol=1e-4)


def test_linear_kl_div_memory():
    """No matrix of logits: 4 rows of three of them at a time."""
    from pylayers.benchmarks.memory import peak_bytes

    x, w, _ = student(256, 8, 4000)
    hidden, weight, _ = (one.float() for one in teacher(256, 4000))
    x.requires_grad_()

    def step():
        functional.linear_kl_div(x, w, hidden, weight, chunk_rows=4).backward()

    step()
    assert peak_bytes(step, torch.device("cpu")) < 256 * 4000 * 4 / 4


@pytest.mark.parametrize(
    "change,error,sentence",
    [
        ({"student_hidden": normal(4)}, ValueError, "student_hidden must have shape (batch, in_features), got [4]"),
        ({"teacher_hidden": normal(3, 6)}, ValueError, "teacher_hidden must have as many rows as student_hidden (4), got 3"),
        ({"teacher_weight": normal(9, 6)}, ValueError, "teacher_weight must have as many classes as student_weight (8), got 9"),
        ({"student_weight": normal(8, 4)}, ValueError, "student_weight must have shape (classes, 5) (in_features of student_hidden), got [8, 4]"),
        ({"student_bias": normal(7)}, ValueError, "student_bias must have shape (8,) (classes), got [7]"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0"),
        ({"reduction": "average"}, ValueError, 'reduction must be "none", "batchmean", "mean" or "sum", got "average"'),
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be positive"),
        ({"teacher_weight": normal(8, 6).double()}, TypeError, "teacher_weight must have the dtype of student_hidden (Float), got Double"),
        ({"student_hidden": 3}, TypeError, "linear_kl_div: student_hidden must be a Tensor, got int"),
    ],
)
def test_linear_kl_div_bad_input(change, error, sentence):
    given = dict(student_hidden=normal(4, 5), student_weight=normal(8, 5), teacher_hidden=normal(4, 6), teacher_weight=normal(8, 6))
    with pytest.raises(error) as raised:
        functional.linear_kl_div(**{**given, **change})
    assert sentence in str(raised.value)
