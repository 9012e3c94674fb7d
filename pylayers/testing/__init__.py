"""check_layer, the contract of a layer, and what an op must pass, for anybody's. Tests of the tests:
`python -m pylayers.testing.mutants`."""

from .check_layer import check_layer
from .contract.report import Outcome, Report
from .functions import compiles, derivatives_hold, matches_float64, transforms_match
from .layouts import LAYOUTS

__all__ = [
    "LAYOUTS",
    "Outcome",
    "Report",
    "check_layer",
    "compiles",
    "derivatives_hold",
    "matches_float64",
    "transforms_match",
]
