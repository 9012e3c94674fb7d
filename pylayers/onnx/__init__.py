from .export import export
from .table import translations

__all__ = ["export", "translations"]
