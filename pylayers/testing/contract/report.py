"""What became of each rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


class Broken(Exception):
    """Raised by a rule: a sentence that says what happened, and what to do."""


class Skip(Exception):
    """Raised by a rule that cannot be judged: why not."""


@dataclass(frozen=True)
class Outcome:
    """One rule's.

    Attributes:
        rule: its name.
        verdict: "pass", "FAIL" or "skipped".
        sentence: what was found and what to do; why it was skipped; "" or a remark if it passed.
    """

    rule: str
    verdict: str
    sentence: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<9}{self.rule:<40}{self.sentence}".rstrip()


@dataclass(frozen=True)
class Report:
    """Every rule's outcome, in the order in which they were looked at. `print(report)` shows a line for each."""

    layer: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether no rule is broken. Skipped ones count neither way."""
        return not self.failed

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(one for one in self.outcomes if one.verdict == "FAIL")

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        return tuple(one for one in self.outcomes if one.verdict == "skipped")

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __getitem__(self, rule: str) -> Outcome:
        for one in self.outcomes:
            if one.rule == rule:
                return one
        raise KeyError(f"there is no rule {rule!r}; there are {', '.join(repr(one.rule) for one in self.outcomes)}")

    def raise_if_failed(self) -> None:
        """AssertionError with a line for each broken rule."""
        if self.failed:
            lines = "\n".join(f"  {one.rule}: {one.sentence}" for one in self.failed)
            raise AssertionError(f"{self.layer} breaks {len(self.failed)} of {len(self.outcomes)} rules:\n{lines}")

    def __str__(self) -> str:
        counted = len(self.outcomes) - len(self.failed) - len(self.skipped), len(self.failed), len(self.skipped)
        return "\n".join([self.layer, *map(str, self.outcomes), "{} passed, {} failed, {} skipped".format(*counted)])
