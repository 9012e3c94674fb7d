import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from torch.nn import functional as F

import pylayers

INF, NAN = float("inf"), float("nan")
SIZES = [(1,), (7,), (3, 7), (5, 64), (2, 3001), (3, 5, 24), (40000,)]


def mse(call, reduction="mean", weight=None):
    return lambda x, t: call.mse_loss(x, t, reduction=reduction, weight=weight)


def logits(call, reduction="mean", weight=None, pos_weight=None):
    def function(x, t):
        own = [one if one is None else one.to(x.dtype) for one in (weight, pos_weight)]
        return call.binary_cross_entropy_with_logits(x, t.sigmoid(), own[0], reduction=reduction, pos_weight=own[1])

    return function


def divergence(call, reduction="mean"):
    return lambda x, t: call.kl_div(x.log_softmax(-1), t.softmax(-1), reduction=reduction)


def log_divergence(call, reduction="mean"):
    return lambda x, t: call.kl_div(x.log_softmax(-1), t.log_softmax(-1), reduction=reduction, log_target=True)


LOSSES = {"mse": mse, "logits": logits, "divergence": divergence, "log_divergence": log_divergence}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
every_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


def both(loss, **options):
    return loss(functional, **options), loss(reference, **options)


# Without functions of torch around the loss, whose errors are of another size.
def plain_logits(call, reduction="mean", weight=None, pos_weight=None):
    def function(x, t):
        own = [one if one is None else one.to(x.dtype) for one in (weight, pos_weight)]
        return call.binary_cross_entropy_with_logits(x, t, own[0], reduction=reduction, pos_weight=own[1])

    return function


def plain_divergence(call, reduction="mean"):
    return lambda x, t: call.kl_div(x - 4, t.abs(), reduction=reduction)  # terms of one sign


def plain_log_divergence(call, reduction="mean"):
    return lambda x, t: call.kl_div(x, t, reduction=reduction, log_target=True)


PLAIN = {"mse": mse, "logits": plain_logits, "divergence": plain_divergence, "log_divergence": plain_log_divergence}
every_plain_loss = pytest.mark.parametrize("loss", PLAIN.values(), ids=PLAIN.keys())


@every_backend
@every_dtype
@every_plain_loss
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pointwise_loss(backend, device, dtype, loss, size):
    x, t = (normal(*size, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    harness.matches_float64(*both(loss), (x, t), backend, long_sums=True)


@every_backend
@every_dtype
@every_plain_loss
@every_reduction
def test_pointwise_loss_reductions(backend, device, dtype, loss, reduction):
    x, t = (normal(9, 70, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    harness.matches_float64(*both(loss, reduction=reduction), (x, t), backend, long_sums=True)


@every_backend
@every_dtype
@every_plain_loss
@every_layout
def test_pointwise_loss_strides(backend, device, dtype, loss, layout):
    x, t = (layout(normal(5, 24, dtype=dtype, device=device, seed=seed)) for seed in (0, 1))
    harness.matches_float64(*both(loss), (x, t), backend, long_sums=True)
    harness.matches_float64(*both(loss, reduction="none"), (x, t.contiguous()), backend)


@every_backend
@every_plain_loss
@pytest.mark.parametrize("rows,dim", [(40, 1001), (600, 13)])
def test_pointwise_loss_sums_of_rows_apart(backend, device, loss, rows, dim):
    """Rows that are not next to each other: long ones that the shares of a sum cut, and short ones of which a share has many."""
    x, t = (normal(rows, dim + 7, device=device, seed=seed)[:, :dim] for seed in (0, 1))
    harness.matches_float64(*both(loss, reduction="sum"), (x, t), backend, long_sums=True)


@every_backend
@every_dtype
@every_reduction
@pytest.mark.parametrize("shape", [(12,), (1,), (7, 12), (7, 1), (3, 7, 12), (3, 1, 12)], ids=str)
def test_pointwise_loss_weights(backend, device, dtype, reduction, shape):
    """Of logits: broadcast from a number, a row, a column, a matrix."""
    x, t = (normal(3, 7, 12, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    weights = [0.5 + torch.arange(torch.Size(shape).numel(), device=device).view(shape) % by / 4 for by in (5, 7)]
    for weight, pos_weight in ((weights[0], None), (None, weights[1]), weights):
        options = dict(reduction=reduction, weight=weight, pos_weight=pos_weight)
        harness.matches_float64(*both(plain_logits, **options), (x, t), backend, long_sums=True)


@every_backend
@every_dtype
def test_pointwise_loss_only_the_gradient_asked_for(backend, device, dtype):
    x, t = (normal(3, 33, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    for loss in PLAIN.values():
        ours, exact = both(loss)
        harness.matches_float64(lambda a: ours(a, t.to(a.dtype)), lambda a: exact(a, t.to(a.dtype)), (x,), backend, long_sums=True)  # noqa: B023
        harness.matches_float64(lambda a: ours(x.to(a.dtype), a), lambda a: exact(x.to(a.dtype), a), (t,), backend, long_sums=True)  # noqa: B023


@every_backend
@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_pointwise_loss_agrees_with_torch(backend, device, loss, reduction):
    x, t = (normal(9, 20, device=device, seed=seed) for seed in (0, 1))
    found = []
    for call in (functional, F):
        leaves = [one.clone().requires_grad_() for one in (x, t)]
        with pylayers.backend(backend):
            y = loss(call, reduction=reduction)(*leaves)
            (2 * y).sum().backward()
        found.append((y.detach(), *(one.grad for one in leaves)))
    for ours, theirs in zip(*found):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


@every_backend
def test_pointwise_loss_batchmean(backend, device):
    x, t = normal(6, 5, device=device).log_softmax(-1), normal(6, 5, device=device, seed=1).softmax(-1)
    with pylayers.backend(backend):
        y = functional.kl_div(x, t, reduction="batchmean")
    torch.testing.assert_close(y, F.kl_div(x, t, reduction="batchmean"))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_losses_of_logits_keep_their_digits(backend, device, dtype):
    """Answers that are all but certain, where 1 − σ(x) and log σ(x) cancel."""
    x = torch.tensor([-80.0, -30.0, -9.0, -1e-6, 0.0, 1e-6, 9.0, 30.0, 80.0], dtype=dtype, device=device)
    for answer in (0.0, 1.0):
        t = torch.full_like(x, answer)
        leaf = x.clone().requires_grad_()
        with pylayers.backend(backend):
            y = functional.binary_cross_entropy_with_logits(leaf, t, reduction="none")
            (dx,) = torch.autograd.grad(y.sum(), leaf)
        away = (x if answer == 0 else -x).double()
        torch.testing.assert_close(y.double(), torch.where(away < -30, away.exp(), F.softplus(away, threshold=1e9)), rtol=4e-6, atol=0)
        torch.testing.assert_close(dx.double().abs(), away.exp() / (1 + away.exp()), rtol=4e-6, atol=0)


@every_backend
def test_pointwise_loss_not_finite(backend, device):
    numbers = torch.tensor([0.0, 1.0, -1.0, INF, -INF, NAN], device=device)
    x, t = (one.flatten() for one in torch.meshgrid(numbers, numbers, indexing="ij"))
    with pylayers.backend(backend):
        torch.testing.assert_close(functional.mse_loss(x, t, reduction="none"), F.mse_loss(x, t, reduction="none"), equal_nan=True)
        logs = functional.kl_div(x, t, reduction="none", log_target=True)
        torch.testing.assert_close(logs, F.kl_div(x, t, reduction="none", log_target=True), equal_nan=True)
        t = torch.where(t.isfinite(), t.abs(), t)
        y = functional.kl_div(x, t, reduction="none")
        assert (y[t == 0] == 0).all()
        expected = F.kl_div(x, t, reduction="none")
        numbers = ~expected.isnan() & (t != 0)  # torch multiplies infinity by 0
        torch.testing.assert_close(y[numbers], expected[numbers])
        assert (y.isnan() <= expected.isnan()).all() and y[t.isnan()].isnan().all()
        answers = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device)
        ends = functional.binary_cross_entropy_with_logits(torch.tensor([INF, -INF, NAN, NAN], device=device), answers, reduction="none")
        assert ends[0] == INF and ends[1] == INF and ends[2:].isnan().all()


@every_backend
def test_logarithms_of_targets(backend, device):
    """Around 1 and at the ends of the range, subnormal numbers included."""
    t = torch.tensor([1e-45, 1e-39, 1.2e-38, 1e-9, 0.7071, 0.70711, 0.99999994, 1.0, 1.0000001, 1.41421, 1.41422, 1e30], device=device)
    with pylayers.backend(backend):
        y = functional.kl_div(torch.zeros_like(t), t, reduction="none")
    torch.testing.assert_close(y.double(), torch.xlogy(t.double(), t.double()), rtol=3e-7, atol=1e-44)


@every_backend
def test_pointwise_loss_empty(backend, device):
    x = torch.empty(0, 5, device=device, requires_grad=True)
    with pylayers.backend(backend):
        for call in (functional.mse_loss, functional.binary_cross_entropy_with_logits, functional.kl_div):
            assert call(x, x.detach()).isnan() and call(x, x.detach(), reduction="sum") == 0
            assert call(x, x.detach(), reduction="none").shape == (0, 5)
            call(x, x.detach(), reduction="sum").backward()
            assert x.grad.shape == (0, 5)


def test_pointwise_loss_broadcasts_with_a_warning():
    x, t = normal(4, 3).requires_grad_(), normal(3, seed=1).requires_grad_()
    with pytest.warns(UserWarning, match="target has shape"):
        y = functional.mse_loss(x, t)
    with pytest.warns(UserWarning):
        expected = F.mse_loss(x, t)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(torch.autograd.grad(y, (x, t)), torch.autograd.grad(expected, (x, t))):
        torch.testing.assert_close(ours, theirs)


def test_pointwise_loss_promotes():
    x, t = normal(4, 3, dtype=torch.bfloat16), torch.arange(12.0).view(4, 3)
    assert functional.mse_loss(x, t).dtype == F.mse_loss(x, t).dtype == torch.float32
    torch.testing.assert_close(functional.mse_loss(x.float(), t.long()), F.mse_loss(x.float(), t.long()))


def test_pointwise_loss_keeps_its_inputs_alone():
    x, t = normal(64, 64).requires_grad_(), normal(64, 64, seed=1)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor.numel()) or tensor, lambda tensor: tensor):
        functional.mse_loss(x, t)
    assert sorted(held) == [x.numel(), t.numel()]


@every_loss
def test_pointwise_loss_derivatives(loss):
    harness.derivatives_hold(loss(functional), (normal(3, 4), normal(3, 4, seed=1)))


def test_gradients_of_weights():
    x, t = normal(3, 4).double(), normal(3, 4, seed=1).double().sigmoid()
    weights = [normal(4, seed=seed).double().abs().requires_grad_() for seed in (2, 3)]
    found = []
    for call in (functional, reference):  # torch has no gradient of weight
        y = call.binary_cross_entropy_with_logits(x, t, weights[0], pos_weight=weights[1])
        found.append(torch.autograd.grad(y, weights))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


@every_loss
def test_pointwise_loss_transforms(loss):
    harness.transforms_match(loss(functional), loss(reference), (normal(3, 4), normal(3, 4, seed=1)))


def test_pointwise_loss_compiles():
    def every(x):
        t = torch.full_like(x, 0.25)
        some = mse(functional)(x, t) + logits(functional, "sum")(x, t)
        return functional.kl_div(x, t, reduction="none") + some

    harness.compiles(every, (normal(4, 6),))


@pytest.mark.parametrize("grad", [False, True])
def test_pointwise_loss_opcheck(grad):
    x, t = (normal(3, 4, seed=seed).requires_grad_(grad) for seed in (0, 1))
    harness.passes_opcheck("mse_loss", x, t, "mean", None)
    harness.passes_opcheck("binary_cross_entropy_with_logits", x, t.detach().sigmoid(), normal(4).abs(), "none", normal(4, seed=2).abs())
    harness.passes_opcheck("kl_div", x, t.detach().abs(), "batchmean", False)


def test_pointwise_loss_autocast():
    x, t = normal(4, 6, dtype=torch.bfloat16), normal(4, 6, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.mse_loss(x, t)
        assert y.dtype == torch.float32
    torch.testing.assert_close(y, F.mse_loss(x.float(), t))


MODULES = {
    "MSELoss": (pylayers.MSELoss, torch.nn.MSELoss, {}),
    "BCEWithLogitsLoss": (pylayers.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss, {"pos_weight": torch.tensor([1.0, 2.0, 3.0])}),
    "KLDivLoss": (pylayers.KLDivLoss, torch.nn.KLDivLoss, {"log_target": True, "reduction": "batchmean"}),
}
every_module = pytest.mark.parametrize("ours,theirs,options", MODULES.values(), ids=MODULES.keys())


class WithTarget(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, input):
        return self.loss(input, (torch.arange(input.numel(), device=input.device) % 5 / 8).view(input.shape).to(input.dtype))


@every_module
def test_modules(ours, theirs, options):
    x, t = normal(4, 3), normal(4, 3, seed=1).softmax(-1)
    mine, other = ours(**options), theirs(**options)
    harness.state_exchanges(mine, other)
    torch.testing.assert_close(mine(x, t), other(x, t))
    assert ours(size_average=False).reduction == "sum" and ours(reduce=False).reduction == "none"
    plain = {name: value for name, value in options.items() if not isinstance(value, torch.Tensor)}
    harness.keeps_the_module_contract(lambda **kind: WithTarget(ours(**plain)), x)


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: functional.mse_loss(x, x, reduction="average"), ValueError, 'reduction must be "none", "mean" or "sum", got "average"'),
        (lambda x: functional.mse_loss(x, x, reduction="batchmean"), ValueError, 'reduction must be "none", "mean" or "sum"'),
        (lambda x: functional.kl_div(x, x, reduction="average"), ValueError, 'reduction must be "none", "batchmean", "mean" or "sum"'),
        (lambda x: functional.mse_loss(x.long(), x.long()), TypeError, "mse_loss: input must be"),
        (lambda x: functional.mse_loss(x, x, weight=x[0]), ValueError, "weight must have the shape of input [4, 3], got [3]"),
        (lambda x: functional.binary_cross_entropy_with_logits(x, x[0]), ValueError, "target must have the shape of input [4, 3], got [3]"),
        (
            lambda x: functional.binary_cross_entropy_with_logits(x, x, pos_weight=x[:, 0]),
            ValueError,
            "pos_weight must be broadcastable to the shape of input [4, 3], got [4]",
        ),
        (lambda x: functional.kl_div(x, 3), TypeError, "kl_div: target must be a Tensor, got int"),
    ],
)
def test_pointwise_loss_bad_input(call, error, sentence):
    with pytest.raises(error) as raised:
        call(normal(4, 3))
    assert sentence in str(raised.value)
