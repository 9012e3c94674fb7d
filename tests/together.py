"""All layers in one module, so that a compiler runs once: the settings of tests/settings.py that compile."""

import functools

import torch
from catalogue import EXAMPLES
from pylayers.testing.contract.subject import floating, tensors_in
from settings import MORE_ROWS, ROWS, Tensors, example, near, run, same
from torch import Tensor, nn
from torch._dynamo import compiled_autograd

# What is compiled. A lazy layer is of its plain class by then, see test_lazy.py.
PLAIN = [name for name in EXAMPLES if not name.startswith("Lazy")]
# Eager calls add the losses of the rows in float64, compiled ones as torch does.
ADDS_IN_ANOTHER_ORDER = ("CrossEntropyLoss", "LinearCrossEntropyLoss")


class Together(nn.Module):
    """Every example, each called with its own inputs. Inputs and outputs are those of all, one after the other."""

    def __init__(self, names: list[str], dtype: torch.dtype = torch.float32):
        super().__init__()
        self.names = names
        self.counts = [len(EXAMPLES[name].inputs(ROWS)) for name in names]
        self.layers = nn.ModuleList(example(name, dtype)[0] for name in names)

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        return tuple(one for name in self.names for one in example(name, rows=rows)[1])

    def forward(self, *inputs):
        given, outputs = iter(inputs), []
        for layer, count in zip(self.layers, self.counts, strict=True):
            outputs.append(layer(*[next(given) for _ in range(count)]))
        return outputs

    def of_each(self, found: Tensors) -> dict[str, Tensors]:
        """By layer: the outputs and gradients of all, told by their numbers."""
        outputs = [len(tensors_in(layer(*inputs))) for layer, inputs in map(example, self.names)]
        firsts = {"output": 0, "gradient of input": 0}
        each = {}
        for index, name in enumerate(self.names):
            own = {}
            for kind, count in (("output", outputs[index]), ("gradient of input", self.counts[index])):
                own |= {f"{kind} {i}": found.get(f"{kind} {firsts[kind] + i}") for i in range(count)}
                firsts[kind] += count
            prefix = f"gradient of layers.{index}."
            own |= {key.replace(prefix, "gradient of "): one for key, one in found.items() if key.startswith(prefix)}
            each[name] = {key: one for key, one in own.items() if one is not None}
        return each


@functools.cache
def all_eager(rows: int) -> dict[str, Tensors]:
    net = Together(PLAIN)
    return net.of_each(run(net, net.inputs(rows)))


@functools.cache
def all_exact(rows: int) -> dict[str, Tensors]:
    """In float64."""
    net = Together(PLAIN, torch.float64)
    return net.of_each(run(net, tuple(one.double() if floating(one) else one for one in net.inputs(rows))))


@functools.cache
def all_compiled(dynamic: bool) -> dict[int, dict[str, Tensors]]:
    """By the number of rows. With dynamic sizes, the second number must not compile anything."""
    net = Together(PLAIN)
    torch.compiler.reset()
    call = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    found = {ROWS: net.of_each(run(net, net.inputs(ROWS), call))}
    if dynamic:
        net.zero_grad()
        with torch.compiler.set_stance("fail_on_recompile"):
            found[MORE_ROWS] = net.of_each(run(net, net.inputs(MORE_ROWS), call))
    torch.compiler.reset()
    return found


@functools.cache
def all_with_compiled_backward() -> dict[str, Tensors]:
    net = Together(PLAIN)
    torch.compiler.reset()
    enabled = compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True, dynamic=False))
    found = net.of_each(run(net, net.inputs(ROWS), backward=enabled))
    torch.compiler.reset()
    return found


def as_eager(name: str, found: Tensors, rows: int = ROWS) -> None:
    if name in ADDS_IN_ANOTHER_ORDER:
        near(found, all_exact(rows)[name], all_eager(rows)[name], ulps=4)
    else:
        same(found, all_eager(rows)[name])


def compiled(name: str) -> None:
    as_eager(name, all_compiled(False)[ROWS][name])


def compiled_for_any_rows(name: str) -> None:
    for rows, found in all_compiled(True).items():
        as_eager(name, found[name], rows)


def compiled_backward(name: str) -> None:
    same(all_with_compiled_backward()[name], all_eager(ROWS)[name])
