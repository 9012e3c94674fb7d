"""Drop-in for models that are there already: their layers get our kernels, in place, and give them back."""

from .convert import convert, revert
from .report import ConversionReport

__all__ = ["ConversionReport", "convert", "revert"]
