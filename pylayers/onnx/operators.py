"""The operators that translations are written in, and the few things about dtypes that all of them need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_ir import DataType, Value


# The numbers of c10::ScalarType.
_DTYPES = {5: "FLOAT16", 6: "FLOAT", 7: "DOUBLE", 15: "BFLOAT16"}


class Operators:
    """`op.Add(x, y)` puts a node into the graph that torch is building. Nodes are those of opset 18, in which torch's own translations
    are written; torch brings them to the opset that is asked for. Newer ones are taken where that opset has them.

    Attributes of operators are float32. So float64 is spelt out in operators that take their numbers as tensors.
    """

    def __init__(self, opset: int) -> None:
        import onnx_ir
        from onnxscript import opset18

        self.opset, self._plain, self._ir = opset, opset18, onnx_ir

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def since(self, version: int, dtype: DataType | None = None) -> Any:
        """The operators of a newer opset, or None where it is newer than asked for, or where attributes would round `dtype`."""
        import onnxscript

        rounds = dtype is not None and dtype == self._ir.DataType.DOUBLE
        return None if self.opset < version or rounds else getattr(onnxscript, f"opset{version}")

    def dtype(self, number: int) -> DataType:
        """Of an argument of our ops."""
        return self._ir.DataType[_DTYPES[number]]

    def acc(self, x: Value) -> DataType:
        """The dtype that values stored as x are computed in."""
        double = self._ir.DataType.DOUBLE
        return double if x.dtype == double else self._ir.DataType.FLOAT

    def widen(self, x: Value | None) -> Value | None:
        """x in that dtype."""
        if x is None or x.dtype == self.acc(x):
            return x
        wide = self.Cast(x, to=self.acc(x))
        wide.dtype = self.acc(x)
        return wide

    def narrow(self, y: Value, like: Value) -> Value:
        """What was computed, in the dtype of `like`."""
        return y if like.dtype == self.acc(like) else self.Cast(y, to=like.dtype)

    def number(self, value: float | Sequence[float], dtype: DataType) -> Value:
        return self.Constant(value=self._ir.tensor(value, dtype=dtype))

    def ints(self, *values: int) -> Value:
        return self.number(list(values), self._ir.DataType.INT64)

    def ones(self, sizes: Sequence[int], dtype: DataType) -> Value:
        return self.ConstantOfShape(self.ints(*sizes), value=self._ir.tensor([1.0], dtype=dtype))

    def zeros(self, shape: Value, dtype: DataType) -> Value:
        return self.ConstantOfShape(shape, value=self._ir.tensor([0.0], dtype=dtype))

    def typed(self, y: Value, like: Value) -> Value:
        """y, whose dtype is known to be that of `like`: torch infers none until the graph is whole."""
        y.dtype = like.dtype
        return y

    def unused(self) -> Value:
        """An output that only a backward would read."""
        return self.number([], self._ir.DataType.FLOAT)

    def with_last(self, x: Value, *sizes: int) -> Value:
        """The shape of x with other sizes in place of the last one."""
        return self.Concat(self.Shape(x, end=-1), self.ints(*sizes), axis=0)


def static(sizes: Any) -> list[int] | None:
    """Sizes as numbers; None where one is known only when the model runs."""
    sizes = list(sizes)
    return sizes if all(isinstance(one, int) for one in sizes) else None
