"""Names of instructions as the engine's table has them: the PTX name without what changes nothing here.

Caches, eviction and the scope of memory ordering make no difference where all threads see every write at once.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .syntax import BYTES

_MEMORY = {"ld", "ldu", "st", "atom", "red"}
_CACHE = {"nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "weak", "mmio", "unified"}
_ORDER = {"volatile", "relaxed", "acquire", "release", "acq_rel"}
_SCOPE = {"cta", "cluster", "gpu", "sys"}
_HINT = re.compile(r"(?:L1|L2|level)::\w+")
_SAME_SPACE = {"shared::cta": "shared", "param::entry": "param", "param::func": "param"}

# What has no effect on results, whatever its modifiers and operands. The engine knows these names.
_NO_EFFECT = {
    "membar": "membar", "fence": "fence", "nanosleep": "nanosleep", "griddepcontrol": "griddepcontrol",
    "prefetch": "prefetch", "prefetchu": "prefetch", "applypriority": "prefetch", "createpolicy": "createpolicy",
    "pmevent": "pragma", "setmaxnreg": "pragma",
}  # fmt: skip

# Instructions whose first operand is a result and nothing else: the allocation of registers relies on it. Those that
# are not here may have one too.
RESULT_FIRST = frozenset(
    "abs activemask add addc and atom bfe bfi bfind bmsk brev clz cnot copysign cos cvt cvta div dp2a dp4a elect ex2 "
    "fma fns getctarank isspacep ld ldmatrix lg2 lop3 mad mad24 madc mapa match max min mma mov mul mul24 neg not or "
    "pack popc prmt rcp redux rem rsqrt sad selp set setp shf shfl shl shr sin slct sqrt sub subc tanh testp "
    "unpack vote xor".split()
)

# What a basic block ends in.
TERMINATORS = frozenset(
    ["goto", "bra", "brx.idx", "exit", "bar.sync", "barrier.sync", "barrier.cluster.wait",
     "bar.red", "bar.red.not", "barrier.red", "barrier.red.not"]
)  # fmt: skip


@lru_cache(maxsize=4096)
def canonical(opcode: str) -> tuple[str, bool]:
    """The name, and whether the access is meant for what other threads do at the same time."""
    kind, *rest = opcode.split(".")
    if kind in _NO_EFFECT:
        return _NO_EFFECT[kind], False
    rest = [_SAME_SPACE.get(part, part) for part in rest]
    if kind in _MEMORY:
        strong = kind in ("atom", "red") or not _ORDER.isdisjoint(rest)
        rest = [part for part in rest if part not in _CACHE | _ORDER | _SCOPE and not _HINT.fullmatch(part)]
        return ".".join(["ld" if kind == "ldu" else kind, *rest]), strong
    if kind in ("bar", "barrier"):
        return _barrier(kind, rest), False
    if kind == "cp":
        rest = [part for part in rest if not _HINT.fullmatch(part)]
    rest = [part for part in rest if part != "aligned" and (part != "uni" or kind == "vote")]  # of a branch it is a hint
    if kind == "cvta" and rest[-2:-1] in (["global"], ["const"]):
        return f"mov.b{8 * BYTES.get(rest[-1], 8)}", False
    return ".".join(["exit" if kind == "ret" else kind, *rest]), False


def _barrier(kind: str, rest: list[str]) -> str:
    """bar is barrier.aligned. Barriers of clusters are aligned or not without a difference here."""
    if rest[:1] == ["cluster"]:
        return ".".join(["barrier", *(part for part in rest if part not in ("aligned", "acquire", "release"))])
    if "aligned" in rest:
        kind = "bar"
    return ".".join([kind, *(part for part in rest if part not in ("aligned", "cta"))])


def last_type(opcode: str) -> str:
    """The type that says how a literal operand is to be understood."""
    if opcode.startswith("vote"):
        return "b32"  # its literal is the member mask, whatever it votes on
    return next((part for part in reversed(opcode.split(".")) if part in BYTES), "b64")


def has_cache_policy(opcode: str) -> bool:
    return "L2::cache_hint" in opcode
