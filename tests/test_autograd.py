"""The node that all ops share: what torch's own nodes promise. What each op saves and computes is tested beside the op."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from pylayers import functional

WIDTH = 24


def one_output(x: Tensor) -> Tensor:
    return functional.softmax(x, -1)  # saves what it returns


def two_outputs(x: Tensor) -> Tensor:
    normed, residual = functional.add_rms_norm(x, x.sin(), (WIDTH,), torch.ones(WIDTH, dtype=x.dtype))
    return normed * 2 + residual


def extras_and_parameters(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (WIDTH,), x[0], None, 1e-3)  # an input is left out


def edited_output(x: Tensor) -> Tensor:
    return functional.linear(x, x[:5], activation="tanh").mul_(2)  # computed again from a saved tensor


every_call = pytest.mark.parametrize("call", [one_output, two_outputs, extras_and_parameters, edited_output])


def leaf() -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()


@every_call
def test_a_graph_serves_once_unless_it_is_retained(call):
    x = leaf()
    y = call(x)
    grad = y.detach()  # into our node, not into one that would refuse before it
    first, second = (torch.autograd.grad(y, x, grad, retain_graph=retain)[0] for retain in (True, False))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, grad)


@every_call
def test_graphs_are_freed_without_a_collector(call):
    gc.collect()
    gc.disable()
    try:
        x = leaf()
        y = call(x)
        seen = weakref.ref(y)
        kept = lambda _: None  # noqa: E731  (as long as the node lives)
        y.grad_fn.register_prehook(kept)
        node = weakref.ref(kept)
        del y, kept
        assert seen() is None and node() is None
        y = call(x)
        (y * y).sum().backward()
        seen = weakref.ref(y)
        del y
        assert seen() is None
    finally:
        gc.enable()


def test_long_chains_are_freed_without_deep_recursion():
    x = y = torch.zeros(1, requires_grad=True)
    for _ in range(50_000):
        y = functional.softmax(y, -1)
    del y
    x.sum().backward()


@every_call
def test_compiled_autograd_traces_the_node(call):
    compiled_autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    graphs = []

    def compiler(graph):
        graphs.append(graph)
        return graph

    gradients = []
    for factor in (1, 3):  # the second time from the cache
        x = leaf()
        (expected,) = torch.autograd.grad((call(x) * factor).square().sum(), x)
        loss = (call(x) * factor).square().sum()
        with compiled_autograd._enable(compiler):
            loss.backward()
        gradients.append((x.grad, expected))
    assert 1 <= len(graphs) <= 2
    for actual, expected in gradients:
        torch.testing.assert_close(actual, expected)


def test_anomaly_mode_names_the_call():
    x = torch.full((1, WIDTH), torch.nan, requires_grad=True)
    with pytest.warns(UserWarning, match="(?s)Traceback of forward call.*one_output"), torch.autograd.detect_anomaly(check_nan=True):
        y = one_output(x).sum()
        with pytest.raises(RuntimeError, match="returned nan"):
            y.backward()


def test_tensors_show_which_op_made_them():
    assert "grad_fn=<SoftmaxBackward>" in repr(one_output(leaf()))


def test_hooks_on_creation_see_the_node():
    creation_hook = getattr(torch.autograd.graph, "node_creation_hook", None)
    if creation_hook is None:
        pytest.skip("this torch has no hooks on the creation of nodes")
    nodes = []
    with creation_hook(nodes.append):
        y = one_output(leaf())
    assert y.grad_fn in nodes


def test_outputs_that_nobody_used_have_no_part_in_the_gradient():
    x = leaf()
    normed, residual = functional.add_rms_norm(x, x.detach(), (WIDTH,), torch.ones(WIDTH, dtype=x.dtype))
    (gradient,) = torch.autograd.grad(residual.sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(x))
    blocked = torch.autograd.grad(Blocked.apply(normed, residual), x, allow_unused=True)[0]
    assert blocked is None or not blocked.any()


class Blocked(torch.autograd.Function):
    """Its gradients are undefined: a node behind it is called with none."""

    @staticmethod
    def forward(ctx, normed: Tensor, residual: Tensor) -> Tensor:
        return normed.sum() + residual.sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        return None, None
