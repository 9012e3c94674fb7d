"""What one run measured, as plain data: the JSON file holds it, the tables and plots read it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """Seconds per call over `count` samples."""

    median: float
    p20: float
    p80: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        p20, _, _, p80 = statistics.quantiles(samples, n=5, method="inclusive")
        return cls(statistics.median(samples), p20, p80, len(samples))


@dataclass
class Entry:
    """One competitor of a case. `role` is ours, eager, compile, peer or roof; without a timing, `note` says why."""

    role: str
    timing: Timing | None = None
    note: str = ""
    peak_bytes: int | None = None
    error: float | None = None
    bound: float | None = None


@dataclass
class Case:
    """One thing measured: everything in `entries` was timed interleaved, in one process, on the same tensors.

    `clock` keeps the three times apart: "kernel" (a CUDA graph on cold inputs), "wall" (what a caller waits for at
    sizes that matter), "call" (a module call on a tensor so small that only the overhead is left). "model" is the wall time of a
    step of a whole model, "processes" that of one on several processes, "serving" that of a byte
    of text.
    """

    op: str
    title: str
    size: tuple[int, ...]
    dtype: str
    step: str
    clock: str
    bytes: int = 0
    flops: int = 0
    headline: bool = False
    products: float | None = None  # of a model: the share of eager's time in products of matrices
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        return (self.title, self.size, self.dtype, self.step, self.clock)

    @property
    def shape(self) -> str:
        return "×".join(map(str, self.size))

    @property
    def element_size(self) -> int:
        return {"float64": 8, "float32": 4}.get(self.dtype, 2)

    @property
    def ours(self) -> list[str]:
        """Our backends, the one that serves by default first."""
        return [name for name, entry in self.entries.items() if entry.role == "ours"]

    def median(self, name: str) -> float | None:
        entry = self.entries.get(name)
        return entry.timing.median if entry and entry.timing else None

    def speedup(self, name: str, rival: str = "eager") -> float | None:
        """How many times faster than the rival."""
        mine, theirs = self.median(name), self.median(rival)
        return theirs / mine if mine and theirs else None

    def of_roof(self, name: str, roof: str | None = None) -> float | None:
        """Share of the roof that was timed in turn with this entry: 1.0 moves the same bytes in the time of a copy."""
        return self.speedup(name, roof or self.roof) if self.roof else None

    @property
    def roof(self) -> str | None:
        return next((name for name, entry in self.entries.items() if entry.role == "roof"), None)


@dataclass
class Results:
    """Everything one run found out. `model` is what training.compare returns, `counted` what counted.run does."""

    machine: dict
    device: str
    quick: bool
    roofs: dict = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # rows that would take too long here
    model: dict | None = None
    counted: dict | None = None
    targets: list[dict] = field(default_factory=list)
    format: int = FORMAT

    def timed(self, *clocks: str) -> list[Case]:
        return [case for case in self.cases if case.clock in clocks]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Results:
        data = json.loads(text)
        if data.get("format") != FORMAT:
            raise ValueError(f"bench: the file must have format {FORMAT}, got {data.get('format')}")
        return cls(**{**data, "cases": [_case(item) for item in data["cases"]]})


def geometric_means(cases: Sequence[Case]) -> dict[str, float]:
    """Of the speed-up by conversion, for each dtype."""
    found: dict[str, list[float]] = {}
    for case in cases:
        if speedup := case.speedup("converted"):
            found.setdefault(case.dtype, []).append(speedup)
    return {dtype: statistics.geometric_mean(speedups) for dtype, speedups in found.items()}


def _case(item: dict) -> Case:
    entries = {
        name: Entry(**{**entry, "timing": Timing(**entry["timing"]) if entry["timing"] else None})
        for name, entry in item["entries"].items()
    }
    return Case(**{**item, "size": tuple(item["size"]), "entries": entries})
