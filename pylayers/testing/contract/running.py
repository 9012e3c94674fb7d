"""How a layer runs: compiled, under autocast, without waiting for the device, in either mode, given nonsense."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .numbers import UNITS
from .report import Broken, Skip
from .subject import Subject, floating, tensors_in

SECONDS = 20  # for a call with bad input


class _Waits(TorchDispatchMode):
    """Operations that would make the host wait for a GPU."""

    waiting = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removesuffix(".default")
        if name.startswith(self.waiting):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def no_device_sync(subject: Subject) -> str:
    layer = subject.copy()
    with _Waits() as waits:
        outputs = layer(*subject.inputs_as())
    found = set(waits.found)
    if subject.device.type == "cuda":
        _with_sync_forbidden(subject)
    if found:
        raise Broken(
            f"forward reads a value on the host ({', '.join(sorted(found))}), for which a GPU has to finish first: "
            "no .item(), no `if` or `while` on a tensor; use torch.where or a kernel"
        )
    del outputs
    return "" if subject.device.type == "cuda" else "by the operations called; there is no GPU in this call"


def _with_sync_forbidden(subject: Subject) -> None:
    before = torch.cuda.get_sync_debug_mode()
    layer, inputs = subject.copy(), subject.inputs_as()
    subject.run(layer, inputs)  # the first call may load libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        leaves = [one.requires_grad_() if floating(one) else one for one in inputs]
        outputs = [one for one in tensors_in(layer(*leaves)) if one.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])
    except RuntimeError as error:
        if "synchroniz" in str(error):
            raise Broken("the call waits for the GPU: no .item(), .cpu() or .nonzero() in forward or backward") from None
        raise
    finally:
        torch.cuda.set_sync_debug_mode(before)


def compiles(subject: Subject) -> str:
    """One graph, the values of the eager call, and its gradients."""
    expected = subject.run(subject.copy(), subject.inputs_as())
    torch.compiler.reset()
    compiled = torch.compile(subject.copy(), fullgraph=True, backend=subject.compile_backend)
    try:
        found = subject.run(compiled, subject.inputs_as())
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise Broken(f"torch.compile(fullgraph=True) raises {type(error).__name__}: {' '.join(lines[:2])[:200]}") from None
    finally:
        torch.compiler.reset()
    actual = {name.replace("_orig_mod.", ""): one for name, one in found.named().items()}
    for name, one in expected.named().items():
        if not torch.allclose(actual[name], one, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise Broken(f"{name} is another one under torch.compile: no Python state and no writes that a graph does not see")
    return f"backend {subject.compile_backend!r}"


def autocast(subject: Subject) -> str:
    """Values near those without, parameters' gradients in the parameters' dtype."""
    if not any(one.dtype == torch.float32 for one in subject.inputs if floating(one)):
        raise Skip("autocast casts from float32, and no input has that")
    plain, dtype = subject.run(subject.copy(), subject.inputs_as()), torch.bfloat16
    try:
        with torch.autocast(subject.device.type, dtype):
            found = subject.run(subject.copy(), subject.inputs_as())
    except Exception as error:
        raise Broken(f"under torch.autocast it raises {type(error).__name__}: {str(error)[:160]}; cast what must have one dtype") from None
    for name, one in plain.named().items():
        actual = found.named().get(name)
        if actual is None or not one.is_floating_point():
            continue
        if name.startswith("output") and actual.dtype not in (torch.float32, dtype):
            raise Broken(f"under torch.autocast({dtype}), {name} is {actual.dtype}")
        bound = 4 * UNITS * torch.finfo(dtype).eps * max(float(one.abs().max()), 1.0) if one.numel() else 0.0
        if not bool(((actual.to(one.dtype) - one).abs() <= bound).all()):
            raise Broken(f"under torch.autocast, {name} is off by more than {bound:.2g}: {dtype} needs sums in float32")
    return f"gives {found.outputs[0].dtype}"


def train_and_eval(subject: Subject) -> None:
    layer = subject.copy()
    for mode in (True, False):
        if layer.train(mode) is not layer:
            raise Broken("train() or eval() does not return the layer: `return super().train(mode)`")
        stuck = [name or "the layer" for name, one in layer.named_modules() if one.training is not mode]
        if stuck:
            raise Broken(f"train({mode}) leaves {', '.join(stuck)} in the other mode: call super().train(mode)")
        try:
            subject.values(subject.restore(layer), subject.inputs_as())
        except Exception as error:
            raise Broken(f"after train({mode}) forward raises {type(error).__name__}: {str(error)[:160]}") from None


def readable(subject: Subject) -> str:
    try:
        text = repr(subject.layer)
    except Exception as error:
        raise Broken(f"repr raises {type(error).__name__}: {error}") from None
    if subject.name not in text:
        raise Broken(f"repr does not name the class: it starts with {text[:40]!r}")
    if "tensor(" in text.lower() and "Parameter containing" in text or "tensor([" in text:
        raise Broken("repr prints whole tensors: give sizes in extra_repr()")
    own = any(True for _ in subject.layer.parameters(recurse=False))
    if own and not subject.layer.extra_repr():
        raise Broken("extra_repr() is empty: print(net) should show the sizes that the layer was made with")
    return text.splitlines()[0] if len(text.splitlines()) == 1 else ""


def bad_input(subject: Subject) -> str:
    """A Python exception with a sentence; in a process of its own where that is cheap, so that a crash is only its own."""
    alone = subject.device.type == "cpu" and hasattr(os, "fork")
    problem = _in_child(lambda: _try_bad_inputs(subject)) if alone else _try_bad_inputs(subject)
    if problem:
        raise Broken(problem)
    return "" if alone else "in this process: a crash would have ended it"


def _bad_inputs(subject: Subject) -> list[tuple[str, bool, tuple[Any, ...]]]:
    """What is wrong, whether the layer must refuse it, and the inputs."""
    found = []
    for index, one in enumerate(subject.inputs):
        if not isinstance(one, Tensor):
            continue

        def with_other(value: Any, index: int = index) -> tuple[Any, ...]:
            return tuple(value if i == index else other for i, other in enumerate(subject.inputs_as()))

        found.append((f"None as input {index}", True, with_other(None)))
        found.append((f"input {index} of dtype int64", False, with_other(torch.ones_like(one, dtype=torch.int64))))
        if floating(one) and one.dim():
            wider = torch.cat([one.detach(), one.detach()[..., -1:]], -1)
            sized = any(one.shape[-1] in own.shape for own in subject.layer.parameters() if own.numel() > 1 and one.shape[-1] > 1)
            found.append((f"input {index} with a last dimension of {wider.shape[-1]}", sized, with_other(wider)))
    return found


def _try_bad_inputs(subject: Subject) -> str:
    for what, must_refuse, inputs in _bad_inputs(subject):
        try:
            subject.values(subject.copy(), inputs)
        except Exception as error:
            if len(str(error).split()) < 3:
                return f"{what} raises {type(error).__name__}({str(error)!r}): say in a sentence what must hold and what came"
            continue
        if must_refuse:
            return f"{what} is taken without an error: check it, and raise TypeError or ValueError with a sentence"
    return ""


def _in_child(function: Callable[[], str]) -> str:
    """function() in a forked process, or how that ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads: the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.write(writing, pickle.dumps(function())[:4000])
        except BaseException as error:  # noqa: BLE001  (SystemExit and its like are the layer's)
            os.write(writing, pickle.dumps(f"bad input raises {type(error).__name__}, which is no Exception"))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return _answer(child, reading)
    finally:
        os.close(reading)


def _answer(child: int, reading: int) -> str:
    ready, _, _ = select.select([reading], [], [], SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    answer = os.read(reading, 8192) if ready else b""
    deadline = time.monotonic() + SECONDS
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ready:
        return f"bad input leaves it running for more than {SECONDS} seconds"
    if answer:
        return pickle.loads(answer)
    return f"bad input ends the process with {signal.Signals(os.WTERMSIG(status)).name}: check every input before memory is touched"
