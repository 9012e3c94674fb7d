"""What is put together where the code of a model allows it: additions with norms, norms with activations, heads with their loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from . import fused, heads, layers, norms
from .report import ConversionReport
from .rewrite import Rewriter, rewritten
from .swap import Converted, Swap, restore

_NORMS = (layers.RMSNorm, layers.LayerNorm, layers.GroupNorm, norms.RMSNorm)


def put_together(model: nn.Module, chosen: dict[str, nn.Module], report: ConversionReport) -> None:
    turns = _tables_are_halves(model)
    for name, module in chosen.items():
        if isinstance(module, Converted | torch.jit.ScriptModule) or "forward" in vars(module):
            continue
        if type(module).forward is nn.Sequential.forward:
            _sequence(name, module, report)
            continue
        rotaries = _rotaries(type(module).forward) if turns else frozenset()
        made = remade(type(module), frozenset(_kinds(module).items()), rotaries)
        if not isinstance(made, str):
            was = type(module).__name__
            Swap(made).apply(module)
            report.fuse(name, was, "; ".join(made.fusions))
    _heads(model, chosen, report)


class Sequence:
    """Modules one after the other."""

    def forward(self, input: object) -> object:
        return super().forward(input) if torch.compiler.is_compiling() else fused.sequence(list(self), input)


def _sequence(name: str, module: nn.Module, report: ConversionReport) -> None:
    children = list(module.named_children())
    pairs = [f"{one} and {other}" for (one, a), (other, b) in zip(children, children[1:], strict=False) if fused.goes_before(a, b)]
    if pairs:
        was = type(module).__name__
        Swap(Sequence).apply(module)
        report.fuse(name, was, "; ".join(pairs))


@lru_cache(maxsize=None)
def remade(original: type[nn.Module], kinds: frozenset[tuple[str, str]], rotaries: frozenset[str]) -> type | str:
    """The changed forward of a class, to be put before it; or why nothing is changed."""
    if not rotaries and not any(kind in ("norm", "linear") for _, kind in kinds):
        return "has no layers of ours"
    rewriter = Rewriter(dict(kinds), rotaries)
    made = rewritten(original, rewriter)
    if not isinstance(made, str):
        made.fusions, made.rebuild = tuple(rewriter.fusions), (remade, (original, kinds, rotaries))
    return made


def _kinds(module: nn.Module) -> dict[str, str]:
    """What the attributes of a module are, of what can be put together."""
    found = {}
    for name, one in {**vars(module), **dict(module.named_children())}.items():
        if isinstance(one, _NORMS):
            found[name] = "norm"
        elif isinstance(one, layers.Linear):
            found[name] = "linear"
        elif fused.activation_of(one):
            found[name] = "activation"
    return found


# ---- rotary embedding


def _rotaries(forward: Callable) -> frozenset[str]:
    """Global functions that the code calls and that turn queries and keys as ours does."""
    code, found = getattr(forward, "__code__", None), set()
    for name in code.co_names if code is not None else ():
        function = forward.__globals__.get(name)
        if "rotary" in name.lower() and inspect.isfunction(function) and _turns_halves(function):
            found.add(name)
    return frozenset(found)


def _turns_halves(function: Callable) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads_, 5, 8, generator=generator) for heads_ in (4, 2))
    angles = torch.randn(2, 5, 4, generator=generator)
    cos, sin = (torch.cat([table, table], -1) for table in (angles.cos(), angles.sin()))
    try:
        given, ours = function(q, k, cos, sin), fused.rotary(function, q, k, cos, sin)
    except Exception:  # noqa: BLE001 another signature
        return False
    return isinstance(given, tuple) and len(given) == 2 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(given, ours, strict=True))


def _tables_are_halves(model: nn.Module) -> bool:
    """Whether every module that makes tables makes (batch, tokens, features) whose halves are alike."""
    makers = [one for one in model.modules() if "rotaryembedding" in type(one).__name__.lower()]
    return bool(makers) and all(_makes_halves(one) for one in makers)


def _makes_halves(maker: nn.Module) -> bool:
    device = next((one.device for one in maker.buffers()), torch.device("cpu"))
    if device.type == "meta":
        return False
    kinds = set(getattr(getattr(maker, "config", None), "layer_types", None) or ())
    named = [{"layer_type": kind} for kind in kinds] if "layer_type" in inspect.signature(maker.forward).parameters else [{}]
    x, positions = torch.zeros(1, 5, 8, device=device), torch.arange(5, device=device)[None]
    try:
        with torch.no_grad():
            found = [maker(x, positions, **one) for one in named]
    except Exception:  # noqa: BLE001 another signature
        return False
    return bool(found) and all(isinstance(tables, tuple) and len(tables) == 2 and all(map(_is_halves, tables)) for tables in found)


def _is_halves(table: object) -> bool:
    return isinstance(table, Tensor) and table.dim() == 3 and table.shape[-1] % 2 == 0 and torch.equal(*table.chunk(2, -1))


# ---- heads


def _heads(model: nn.Module, chosen: dict[str, nn.Module], report: ConversionReport) -> None:
    known = set(chosen.values())
    for head in _output_layers(model):
        if isinstance(head, layers.Linear) and head in known and not isinstance(head, heads.Head):
            name = next(name for name, one in chosen.items() if one is head)
            was = type(head).original.__name__
            restore(head)
            Swap(heads.Head).apply(head)
            report.fuse(name, was, "cross entropy without logits, in training")


def _output_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Of transformers' language models; else a last layer with a vocabulary's number of outputs."""
    for module in model.modules():
        if hasattr(module, "get_output_embeddings"):
            head = module.get_output_embeddings()
            if isinstance(head, nn.Module):
                yield head
                return
    last = [one for one in model.modules() if isinstance(one, nn.Linear)][-1:]
    yield from (one for one in last if one.out_features >= 8192)
