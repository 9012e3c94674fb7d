"""What goes wrong in a kernel that runs on the emulator."""

from __future__ import annotations

from .syntax import PtxError

__all__ = ["Fault", "LaunchError", "PtxError"]


class LaunchError(ValueError):
    """A launch that the GPU would refuse, or arguments that do not fit the kernel."""


class Fault(RuntimeError):
    """A kernel did what it must not do.

    Attributes:
        what: the sentence.
        kernel: name of the kernel.
        where: block and thread, such as "block (3, 0, 0), thread (64, 0, 0)".
        ptx: the instruction.
        source: "file:line" of the source it was compiled from, or "" if the PTX does not tell.
    """

    def __init__(self, what: str, kernel: str = "", where: str = "", ptx: str = "", source: str = ""):
        self.what, self.kernel, self.where, self.ptx, self.source = what, kernel, where, ptx, source
        parts = [f"kernel {kernel}" if kernel else "", where, f"at {source}" if source else "", f"[{ptx}]" if ptx else ""]
        told = ", ".join(part for part in parts if part)
        super().__init__(f"{what} ({told})" if told else what)
