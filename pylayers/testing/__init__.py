"""check_layer, the contract of a layer, for anybody's layer. Tests of the tests: `python -m pylayers.testing.mutants`."""

from .check_layer import check_layer
from .contract.report import Outcome, Report
from .layouts import LAYOUTS

__all__ = ["LAYOUTS", "Outcome", "Report", "check_layer"]
