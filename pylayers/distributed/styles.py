"""Styles for `torch.distributed.tensor.parallel.parallelize_module` that know our layers beside those of torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor import parallel as torch_parallel
from torch.distributed.tensor.placement_types import Placement

from ..modules import FixedLinear, Linear, LinearCrossEntropyLoss, ScaledLinear

_LINEAR = (Linear, FixedLinear, ScaledLinear)


class ColwiseParallel(torch_parallel.ColwiseParallel):
    """`torch.distributed.tensor.parallel.ColwiseParallel`, also of our Linear, FixedLinear and ScaledLinear: each rank computes some
    of the output features, the activation included."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, _LINEAR):
            return super()._apply(module, device_mesh)
        _check(self, module, module.out_features, "out_features", device_mesh)
        return _apply(self, module, device_mesh, [Shard(0)], [Shard(0)])


class RowwiseParallel(torch_parallel.RowwiseParallel):
    """`torch.distributed.tensor.parallel.RowwiseParallel`, also of our Linear, FixedLinear and ScaledLinear: each rank computes with some
    of the input features, and the results are added up. Of layers without an activation, which would come before the sum."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, _LINEAR):
            return super()._apply(module, device_mesh)
        if module.activation is not None:
            kind = f"{type(module).__name__} with activation {module.activation!r}"
            raise ValueError(f"RowwiseParallel: {kind} cannot be split by input features, its activation is of their sum: use ColwiseParallel")
        _check(self, module, module.in_features, "in_features", device_mesh)
        self.desired_input_layouts = (Shard(-1),)
        return _apply(self, module, device_mesh, [Shard(1)], [Replicate()])


class SequenceParallel(torch_parallel.ParallelStyle):
    """`torch.distributed.tensor.parallel.SequenceParallel` of layers with one input and one output or several, such as AddRMSNorm: its
    parameters are replicated, and each rank has some of the tokens.

    Args:
        sequence_dim: the dimension of the tokens.
        output_layouts: how the outputs leave, one for each: Replicate() gathers, None leaves it as it is.
        use_local_output: whether they are Tensors instead of DTensors.

    Inputs that are Tensors are taken as shards.
    """

    def __init__(self, *, sequence_dim: int = 1, output_layouts: Sequence[Placement | None] = (), use_local_output: bool = False) -> None:
        super().__init__()
        self.sequence = Shard(sequence_dim)
        self.output_layouts = output_layouts
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def one_input(given: object) -> object:
            return _as_dtensor(given, device_mesh, self.sequence).redistribute(placements=[self.sequence]) if isinstance(given, Tensor) else given

        def one_output(given: object, layout: Placement | None) -> object:
            if isinstance(given, DTensor):
                given = given if layout is None else given.redistribute(placements=[layout])
                return given.to_local() if self.use_local_output else given
            return given

        def inputs(module: nn.Module, given: tuple, mesh: DeviceMesh) -> tuple:
            return tuple(one_input(one) for one in given)

        def outputs(module: nn.Module, given: object, mesh: DeviceMesh) -> object:
            several = given if isinstance(given, tuple) else (given,)
            found = tuple(one_output(one, layout) for one, layout in zip_longest(several, self.output_layouts))
            return found if isinstance(given, tuple) else found[0]

        return distribute_module(module, device_mesh, None, inputs, outputs)


class VocabularyParallel(torch_parallel.ParallelStyle):
    """Of `LinearCrossEntropyLoss`: each rank has some of the classes, and no rank ever has the logits of all.

    Args:
        input_layouts: how the input comes if it is a Tensor: Replicate(), or Shard(0) for rows of its own behind sequence parallelism.
        use_local_output: whether the loss is a Tensor instead of a DTensor.

    The target holds all rows: a Tensor that is the same on every rank, or a DTensor.
    """

    def __init__(self, *, input_layouts: Placement | None = None, use_local_output: bool = True) -> None:
        super().__init__()
        self.input_layouts = input_layouts or Replicate()
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, LinearCrossEntropyLoss):
            raise TypeError(f"VocabularyParallel: the module must be a LinearCrossEntropyLoss, got {type(module).__name__}")
        if module.out_features:
            raise ValueError(f"VocabularyParallel: out_features must be (), got {module.out_features}")
        _check(self, module, module.num_classes, "num_classes", device_mesh)

        def inputs(module: nn.Module, given: tuple, mesh: DeviceMesh) -> tuple:
            layouts = (self.input_layouts, Replicate())
            return tuple(_as_dtensor(one, mesh, layout) for one, layout in zip(given, layouts, strict=True))

        def output(module: nn.Module, loss: Tensor, mesh: DeviceMesh) -> Tensor:
            return loss.to_local() if self.use_local_output else loss

        def partition(name: str, one: nn.Module, mesh: DeviceMesh) -> None:
            if one is module.linear:
                _distribute(self, one, mesh, [Shard(0)], [Shard(0)])

        return distribute_module(module, device_mesh, partition, inputs, output)


def _as_dtensor(tensor: Tensor, mesh: DeviceMesh, layout: Placement) -> DTensor:
    """A Tensor is what the rank has of one that is placed so."""
    return tensor if isinstance(tensor, DTensor) else DTensor.from_local(tensor, mesh, [layout], run_check=False)


def _check(style: object, module: nn.Module, features: int, what: str, mesh: DeviceMesh) -> None:
    """The same on every rank, before any of them waits for another."""
    if features % mesh.size():
        kind = f"{type(style).__name__}: {what} of {type(module).__name__}"
        raise ValueError(f"{kind} must be a multiple of the {mesh.size()} ranks, got {features}")


def _distribute(style: torch_parallel.ParallelStyle, module: nn.Module, mesh: DeviceMesh, weight: list[Placement], bias: list[Placement]) -> None:
    for name, placements in (("weight", weight), ("bias", bias)):
        own = getattr(module, name)
        if own is None:
            continue
        shard = distribute_tensor(own.detach(), mesh, placements, src_data_rank=style.src_data_rank)
        if isinstance(own, nn.Parameter):
            module.register_parameter(name, nn.Parameter(shard, requires_grad=own.requires_grad))
        else:
            setattr(module, name, shard)


def _apply(style: torch_parallel.ParallelStyle, module: nn.Module, mesh: DeviceMesh, weight: list[Placement], bias: list[Placement]) -> nn.Module:
    def partition(name: str, one: nn.Module, mesh: DeviceMesh) -> None:
        _distribute(style, one, mesh, weight, bias)

    inputs = partial(style._prepare_input_fn, style.input_layouts, style.desired_input_layouts)
    outputs = partial(style._prepare_output_fn, style.output_layouts, style.use_local_output)
    return distribute_module(module, mesh, partition, inputs, outputs)
