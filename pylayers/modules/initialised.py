"""`weight_init=` and `bias_init=` of every layer that has parameters."""

from __future__ import annotations

from ..init import Initialiser, describe, initialise_, resolve


class Initialised:
    """Lets the caller of a layer choose how its parameters are initialised.

    A layer takes it with two lines: `self.initialise(…)` at the end of `__init__`, where `self.reset_parameters()` would stand,
    and `self.apply_initialisers()` at the end of `reset_parameters`. Parameters for which nothing is chosen have the values that
    they would have without, bit for bit. What is chosen is an attribute, so that deepcopy and pickle keep it, and a lazy form of
    the layer has it until shapes are known.

    Example:
        >>> class Scale(Initialised, nn.Module):
        ...     def __init__(self, dim, *, weight_init=None):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.empty(dim))
        ...         self.initialise(weight=weight_init)
        ...
        ...     def reset_parameters(self):
        ...         nn.init.ones_(self.weight)
        ...         self.apply_initialisers()

    and `extra_repr` ends in `+ self.initialisers_repr()`.
    """

    initialisers: dict[str, Initialiser]

    @property
    def weight_init(self) -> Initialiser | None:
        return self.initialisers.get("weight")

    @property
    def bias_init(self) -> Initialiser | None:
        return self.initialisers.get("bias")

    def initialise(self, **chosen: Initialiser | None) -> None:
        """Keeps what was chosen for each parameter, None for the default, and calls reset_parameters."""
        self.initialisers = {name: one for name, one in chosen.items() if one is not None}
        for name, one in self.initialisers.items():
            resolve(one, self._option(name))
            if getattr(self, name) is None:
                raise ValueError(f"{self._option(name)} was given, but there is no {name}")
        self.reset_parameters()

    def apply_initialisers(self) -> None:
        """Overwrites the parameters for which an initialiser was chosen, in the order of the arguments."""
        for name, one in self.initialisers.items():
            initialise_(getattr(self, name), one, self._option(name))

    def initialisers_repr(self) -> str:
        return "".join(f", {name}_init={describe(one)}" for name, one in self.initialisers.items())

    def _option(self, name: str) -> str:
        return f"{type(self).__name__}: {name}_init"
