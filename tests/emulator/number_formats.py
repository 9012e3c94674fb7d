"""Exact arithmetic on the numbers of a GPU: values as Python's ints and floats, rounded once with rational numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import copysign, inf, isinf, isnan, nan


@dataclass(frozen=True)
class Format:
    """A type of PTX: what its bits mean."""

    name: str
    bits: int
    mantissa: int = 0  # explicit bits; 0 for integers
    exponent: int = 0

    @property
    def signed(self) -> bool:
        return self.name[0] == "s"

    @property
    def floating(self) -> bool:
        return self.mantissa > 0

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def largest(self) -> Fraction:
        return (2 - Fraction(1, 1 << self.mantissa)) * Fraction(2) ** self.bias

    def decode(self, bits: int) -> int | float:
        if not self.floating:
            return bits - (1 << self.bits) if self.signed and bits >> (self.bits - 1) else bits
        sign, field = -1.0 if bits >> (self.bits - 1) else 1.0, bits & ((1 << (self.bits - 1)) - 1)
        exponent, fraction = field >> self.mantissa, field & ((1 << self.mantissa) - 1)
        if exponent == (1 << self.exponent) - 1:
            return nan if fraction else copysign(inf, sign)
        fraction += (1 << self.mantissa) if exponent else 0
        return copysign(math.ldexp(fraction, max(exponent, 1) - self.bias - self.mantissa), sign)

    def encode(self, value: float) -> int:
        """The bits of a value of this format; of NaN those that a GPU gives."""
        if not self.floating:
            return int(value) & ((1 << self.bits) - 1)
        if isnan(value):
            return 0xFFF8 << 48 if self.name == "f64" else (1 << (self.bits - 1)) - 1
        sign = (1 << (self.bits - 1)) if copysign(1, value) < 0 else 0
        if isinf(value):
            return sign | (((1 << self.exponent) - 1) << self.mantissa)
        if value == 0:
            return sign
        exponent = max(math.frexp(abs(value))[1] - 1, 1 - self.bias)
        steps = Fraction(abs(value)) / Fraction(2) ** (exponent - self.mantissa)
        assert steps.denominator == 1, f"{value} is no {self.name}"
        return sign | (((exponent + self.bias - 1) << self.mantissa) + int(steps))

    def rounded(self, exact: Fraction | float, mode: str = "rn") -> float:
        """The number of this format that `exact` becomes. A Fraction is not 0: zeros have signs, and are floats."""
        if not isinstance(exact, Fraction):
            if isnan(exact) or isinf(exact) or exact == 0:
                return float(exact)
            exact = Fraction(exact)
        size = abs(exact)
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        exponent -= size < Fraction(2) ** exponent
        unit = Fraction(2) ** (max(exponent, 1 - self.bias) - self.mantissa)
        away = (mode == "rp" and exact > 0) or (mode == "rm" and exact < 0)
        steps = size / unit
        count = math.ceil(steps) if away else math.floor(steps)
        count = round(steps) if mode == "rn" else count  # ties to even
        if count * unit <= self.largest:
            size = float(count * unit)
        else:
            size = inf if mode == "rn" or away else float(self.largest)
        return -size if exact < 0 else size

    def flushed(self, value: float) -> float:
        return copysign(0.0, value) if abs(value) < 2.0 ** (1 - self.bias) else value


FORMATS = {
    one.name: one
    for one in (
        *(Format(f"{kind}{bits}", bits) for kind in "sub" for bits in (8, 16, 32, 64)),
        Format("f16", 16, 10, 5), Format("bf16", 16, 7, 8), Format("f32", 32, 23, 8), Format("f64", 64, 52, 11),
        Format("e4m3", 8, 3, 4), Format("e5m2", 8, 2, 5), Format("tf32", 32, 23, 8), Format("pred", 1),
    )
}  # fmt: skip

Exact = Fraction | float


def _zero(negative: bool) -> float:
    return -0.0 if negative else 0.0


def add(a: Exact, b: Exact, mode: str = "rn") -> Exact:
    if not (isinstance(a, Fraction) or isinstance(b, Fraction)) and not (math.isfinite(a) and math.isfinite(b)):
        return a + b
    if not isinstance(a, Fraction) and not math.isfinite(a):
        return a
    if not isinstance(b, Fraction) and not math.isfinite(b):
        return b
    total = Fraction(a) + Fraction(b)
    if total:
        return total
    both = [isinstance(x, float) and copysign(1, x) < 0 and x == 0 for x in (a, b)]
    opposite = a != 0 or both[0] != both[1]
    return _zero(mode == "rm" if opposite else both[0])


def subtract(a: float, b: float, mode: str = "rn") -> Exact:
    return add(a, -b, mode)


def multiply(a: float, b: float, mode: str = "rn") -> Exact:
    if math.isfinite(a) and math.isfinite(b) and a and b:
        return Fraction(a) * Fraction(b)
    return a * b


def fma(a: float, b: float, c: float, mode: str = "rn") -> Exact:
    return add(multiply(a, b), c, mode)


def divide(a: float, b: float, mode: str = "rn") -> Exact:
    if isnan(a) or isnan(b) or (a == 0 and b == 0) or (isinf(a) and isinf(b)):
        return nan
    sign = copysign(1, a) * copysign(1, b)
    if b == 0 or isinf(a):
        return copysign(inf, sign)
    if a == 0 or isinf(b):
        return copysign(0.0, sign)
    return Fraction(a) / Fraction(b)


def reciprocal(a: float, mode: str = "rn") -> Exact:
    return divide(1.0, a)


def square_root(a: float, mode: str = "rn") -> Exact:
    """Hundreds of bits, of which the last is set if there are others: no rounding can tell it from the exact root."""
    if isnan(a) or a < 0:
        return nan
    if a == 0 or isinf(a):
        return a
    scaled = Fraction(a) * Fraction(4) ** 1300
    root = math.isqrt(int(scaled))
    exact = root * root == scaled
    return Fraction(2 * root + (not exact), 2) / Fraction(2) ** 1300


def saturated(value: float) -> float:
    return 0.0 if isnan(value) or value <= 0 else min(value, 1.0)


def smaller(a: float, b: float) -> float:
    if isnan(a) or isnan(b):
        return b if isnan(a) else a
    return min((a, b), key=lambda x: (x, copysign(1, x)))


def larger(a: float, b: float) -> float:
    if isnan(a) or isnan(b):
        return b if isnan(a) else a
    return max((a, b), key=lambda x: (x, copysign(1, x)))


def with_nan(function: Callable) -> Callable:
    return lambda a, b: nan if isnan(a) or isnan(b) else function(a, b)


def clamped(value: int, format: Format) -> int:
    """The nearest integer of the format."""
    low = -(1 << (format.bits - 1)) if format.signed else 0
    return min(max(value, low), low + (1 << format.bits) - 1)
