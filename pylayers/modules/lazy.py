"""Layers that take their input sizes from the first data they see.

`Lazy` in front of a layer makes its lazy form. It says which attributes come from the data, and what shapes follow from them:

    class LazyBilinear(Lazy, Bilinear):
        cls_to_become = Bilinear

        def __init__(self, out_features, bias=True, device=None, dtype=None, *, weight_init=None, bias_init=None):
            super().__init__(0, 0, out_features, bias, device, dtype, weight_init=weight_init, bias_init=bias_init)

        def shapes(self):
            return {"weight": (self.out_features, self.in1_features, self.in2_features), "bias": (self.out_features,)}

        def sizes_of_input(self, input1, input2):
            return {"in1_features": input1.shape[-1], "in2_features": input2.shape[-1]}

        def sizes_of_state(self, shapes):
            return {"in1_features": shapes["weight"][1], "in2_features": shapes["weight"][2]}

The layer's own constructor runs with sizes of 0, which it must not refuse; `reset_parameters` waits for the shapes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

# What a state_dict holds before data, so that torch.load reads it with weights_only=True.
torch.serialization.add_safe_globals([UninitializedParameter, UninitializedBuffer])

_FIRST_CALL = threading.RLock()  # one for all layers: a lock of its own could not be pickled


class LazyTensor:
    """In front of a tensor without a shape: says whose it is when it is used."""

    owner = "a lazy layer's tensor"
    _allowed_methods = [*UninitializedParameter._allowed_methods, torch.Tensor.requires_grad_]

    def _sentence(self) -> str:
        return (
            f"{self.owner} has no shape before data: call the net once, or pylayers.init.apply_init(net, example_input, init) "
            "to initialise it too"
        )

    def _refuse(self, *_: Any):
        raise RuntimeError(self._sentence())

    shape = ndim = property(_refuse)
    size = share_memory_ = _refuse

    def materialize(self, shape, device=None, dtype=None) -> None:
        for name in ("owner", "persistent", "_is_buffer"):  # the last two are those of torch's own
            self.__dict__.pop(name, None)
        with torch.inference_mode(False):  # a tensor of inference mode would never get a gradient
            super().materialize(shape, device, dtype)

    def __repr__(self) -> str:
        return f"<{self.owner}, without a shape>"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls._allowed_methods or func.__class__.__name__ == "method-wrapper":
            return super().__torch_function__(func, types, args, kwargs or {})
        given = (*args, *(kwargs or {}).values())
        flat = (one for each in given for one in (each if isinstance(each, (list, tuple)) else (each,)))
        raise ValueError(next(one for one in flat if isinstance(one, cls))._sentence())


class LazyParameter(LazyTensor, UninitializedParameter):
    """Becomes an nn.Parameter, the same object."""

    def __reduce_ex__(self, proto):
        return UninitializedParameter, (self.requires_grad, self.data.device, self.data.dtype)


class LazyBuffer(LazyTensor, UninitializedBuffer):
    """Becomes a Tensor, the same object."""

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = LazyBuffer(False, self.data.device, self.data.dtype)
        return memo[id(self)]

    def __reduce_ex__(self, proto):
        return UninitializedBuffer, (False, self.data.device, self.data.dtype)


def _without_shape(tensor: Tensor) -> LazyTensor:
    if isinstance(tensor, nn.Parameter):
        return LazyParameter(tensor.requires_grad, tensor.device, tensor.dtype)
    return LazyBuffer(False, tensor.device, tensor.dtype)


class Lazy(LazyModuleMixin):
    """In front of a layer: its form without input sizes, see above.

    Before data its parameters have device and dtype, which follow `.to()`, but no shape, and cannot be used. The first call, or
    loading a state_dict that has the shapes, makes it exactly `cls_to_become`: the parameters stay the same objects, are
    initialised once (by the first call: loaded ones are not), and nothing lazy remains.
    """

    cls_to_become: type[nn.Module]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for held, name, one in self._held():
            held[name] = _without_shape(one)
        self.name_parameters()

    def _held(self) -> list[tuple[dict, str, Tensor]]:
        """What has a shape that depends on data: where it is, its name, and itself."""
        dicts = ((self._parameters, self._parameters), (self._buffers, self._buffers.keys() & self.shapes().keys()))
        return [(held, name, held[name]) for held, names in dicts for name in names if held[name] is not None]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter that there may be, and of buffers that depend on data, from the layer's attributes."""
        return {}

    def sizes_of_input(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The attributes that are unknown before data, from what forward is called with."""
        raise NotImplementedError(f"{type(self).__name__} must define sizes_of_input")

    def sizes_of_state(self, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
        """The same from the shapes of loaded parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define sizes_of_state")

    def reset_parameters(self) -> None:
        """Does nothing: there is nothing to initialise before the shapes are known."""

    def _infer_parameters(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        """Of several threads, one makes the first call; the others wait."""
        with _FIRST_CALL:
            if isinstance(module, Lazy):
                super()._infer_parameters(module, args, kwargs)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Runs before the first forward."""
        try:
            sizes = self.sizes_of_input(*args, **kwargs)
        except (TypeError, AttributeError, IndexError):
            given = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in args)
            name = type(self).__name__
            raise ValueError(f"{name}: input must be a tensor that has the dimensions to take sizes from, got {given}") from None
        if self._take(sizes):
            self.cls_to_become.reset_parameters(self)

    def _take(self, sizes: Mapping[str, Any]) -> bool:
        """Gives the parameters their shapes. Whether there were any."""
        self.__dict__.update(sizes)
        shapes, waiting = self.shapes(), [(name, one) for _, name, one in self._held() if is_lazy(one)]
        for name, one in waiting:
            one.materialize(shapes[name])
        return bool(waiting)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        load = super()._load_from_state_dict
        arguments = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        found = {name: state_dict.get(prefix + name) for _, name, _ in self._held()}
        shapes = {name: one.shape for name, one in found.items() if one is not None and not is_lazy(one)}
        if not shapes:  # nothing for this layer, or the state of an equally lazy one
            return load(*arguments)
        problem = self._take_from_state(shapes)
        if problem:
            error_msgs.append(f"{prefix.removesuffix('.') or 'net'}: {type(self).__name__}: {problem}")
            return None
        if len(shapes) < len(found):
            self.cls_to_become.reset_parameters(self)
        load(*arguments)
        return self._become()

    def _take_from_state(self, shapes: Mapping[str, torch.Size]) -> str:
        """Gives the parameters their shapes, or says why it cannot."""
        try:
            sizes = self.sizes_of_state(shapes)
        except (KeyError, IndexError, ValueError):
            told = ", ".join(f"{name} of shape {tuple(shape)}" for name, shape in shapes.items())
            return f"sizes cannot be taken from a state_dict with {told}"
        before = {name: getattr(self, name) for name in sizes}
        self.__dict__.update(sizes)
        expected = self.shapes()
        for name, shape in shapes.items():
            if tuple(shape) != tuple(expected[name]):
                self.__dict__.update(before)
                return f"{name} must have shape {tuple(expected[name])}, got {tuple(shape)} from the state_dict"
        self._take(sizes)
        return ""

    def _lazy_load_hook(self, *args: Any) -> None:
        """Nothing is left to do for it: see `_load_from_state_dict`."""

    def _apply(self, fn, recurse=True):
        waiting = [(held, name) for held, name, one in self._held() if is_lazy(one)]
        super()._apply(fn, recurse)
        for held, name in waiting:
            if not is_lazy(held[name]):  # made anew, as between the meta device and others
                held[name] = _without_shape(held[name])
        self.name_parameters()
        return self

    def _become(self) -> None:
        self._initialize_hook.remove()
        self._load_hook.remove()
        del self._initialize_hook, self._load_hook
        self.__class__ = self.cls_to_become

    def name_parameters(self) -> None:
        """Lets what has no shape, which may come from a file, say whose it is."""
        for _, name, one in self._held():
            if is_lazy(one):
                one.__class__ = LazyParameter if isinstance(one, nn.Parameter) else LazyBuffer  # torch's own after unpickling
                one.owner = f"{type(self).__name__}.{name}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.name_parameters()
