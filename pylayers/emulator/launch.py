"""Kernels from PTX, and their launches."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

import numpy as np

from . import engine, gpus, inline, program, ptx
from .faults import Fault, LaunchError, PtxError
from .memory import GlobalMemory

STEP_LIMIT = 200_000_000  # instructions of warps in one launch


@dataclass
class Counts:
    """What launches did, added up over all warps."""

    load_bytes: int = 0
    load_sectors: int = 0
    load_requests: int = 0
    store_bytes: int = 0
    store_sectors: int = 0
    store_requests: int = 0
    shared_accesses: int = 0
    shared_conflicts: int = 0
    shuffles: int = 0
    barriers: int = 0
    atomics: int = 0
    flops: int = 0
    matrix_flops: int = 0
    instructions: int = 0
    launches: int = 1

    @classmethod
    def of(cls, native: engine.Counts) -> Counts:
        rest = {name: getattr(native, name) for name, _ in engine.Counts._fields_[2:]}
        load, store = native.global_load, native.global_store
        return cls(load.bytes, load.sectors, load.requests, store.bytes, store.sectors, store.requests, **rest)

    def __iadd__(self, other: Counts) -> Counts:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


class Module:
    """A file of PTX with its variables."""

    def __init__(self, text: str):
        self.parsed = ptx.parse(text)
        self.memory_of_variables, self.addresses = program.place_variables(self.parsed)
        self._kernels: dict[str, Kernel] = {}

    @property
    def kernels(self) -> list[str]:
        return [name for name, function in self.parsed.functions.items() if function.kind == "entry"]

    def kernel(self, name: str | None = None) -> Kernel:
        """The kernel of that name, or whose (mangled) name contains it, if it is the only one."""
        fitting = [name] if name in self.kernels else [one for one in self.kernels if name is None or name in one]
        if len(fitting) != 1:
            raise PtxError(f"there is {'no' if not fitting else 'more than one'} kernel {name!r} among {', '.join(self.kernels)}")
        if fitting[0] not in self._kernels:
            self._kernels[fitting[0]] = Kernel(self, fitting[0])
        return self._kernels[fitting[0]]


@cache
def module_of(text: str) -> Module:
    """The module of a PTX text, parsed once."""
    return Module(text)


def three(size: int | Sequence[int]) -> tuple[int, int, int]:
    """Sizes in x, y and z."""
    given = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    if not 1 <= len(given) <= 3 or any(int(one) < 1 for one in given):
        raise LaunchError(f"grid, block and cluster have one to three dimensions of at least 1, got {size!r}")
    return tuple(int(one) for one in (*given, 1, 1)[:3])  # type: ignore[return-value]


@dataclass
class _Loaded:
    """The engine's copy of a program, freed with the kernel."""

    handle: int
    keep: list = field(default_factory=list)

    def __del__(self):
        if self.handle:
            engine.library().emulator_free_program(self.handle)


class Kernel:
    """A kernel that can be launched."""

    def __init__(self, module: Module, name: str):
        self.module, self.name = module, name
        self.directives = module.parsed.functions[name].directives
        flat = inline.flatten(module.parsed, name)
        self.program = program.assemble(flat, engine.opcode_id, engine.special_id, module.addresses)
        self.parameters = self.program.parameters
        self.static_shared = self.program.static_shared
        self._loaded = _Loaded(self._load())

    def _load(self) -> int:
        made, result = self.program, engine.LaunchResult()
        described = engine.ProgramDescription(
            len(made.instructions), made.instructions.ctypes.data, len(made.operands), made.operands.ctypes.data,
            len(made.blocks) - 1, made.blocks.ctypes.data, len(made.specials), made.specials.ctypes.data,
            made.register_bytes, made.local_bytes,
        )  # fmt: skip
        handle = engine.library().emulator_program(ctypes.byref(described), ctypes.byref(result))
        if not handle:
            raise PtxError(f"{result.what.decode()}: {made.texts[result.instruction].ptx}")
        return handle

    def launch_raw(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        parameters: bytes,
        memory: GlobalMemory,
        *,
        dynamic_shared: int = 0,
        cluster: Sequence[int] = (1, 1, 1),
        order: int | Sequence[int] = 0,
        step_limit: int = STEP_LIMIT,
    ) -> Counts:
        """Runs every block.

        Args:
            parameters: as the kernel declares them in memory.
            memory: all that it may touch.
            order: of blocks and warps: 0 ascending, 1 descending, n ≥ 2 shuffled with that seed. Several: the kernel runs once in
                each from the same memory, and must leave the same bits.

        Returns:
            What it did, in the first order.
        """
        grid, block, cluster = three(grid), three(block), three(cluster)
        if len(parameters) != self.program.parameter_bytes:
            raise LaunchError(f"kernel {self.name} takes {self.program.parameter_bytes} bytes of parameters, got {len(parameters)}")
        if int(np.prod(block)) > 1024:
            raise LaunchError(f"kernel {self.name}: a block has at most 1024 threads, got {block}")
        if any(size % each for size, each in zip(grid, cluster, strict=True)):
            raise LaunchError(f"kernel {self.name}: the grid {grid} is not a multiple of the cluster {cluster}")
        for address, nbytes, writable in self.module.memory_of_variables.spans:
            memory.add(address, nbytes, writable=writable, name="a variable of the module")
        described = engine.LaunchDescription(
            program=self._loaded.handle, memory=memory.handle, grid=grid, block=block, cluster=cluster,
            static_shared=self.static_shared, dynamic_shared=dynamic_shared, step_limit=step_limit,
            parameters=parameters, parameter_bytes=len(parameters),
        )  # fmt: skip
        return self._run_in_orders(described, memory, [order] if isinstance(order, (int, np.integer)) else list(order))

    def _run_in_orders(self, described: engine.LaunchDescription, memory: GlobalMemory, orders: list[int]) -> Counts:
        before = memory.save() if len(orders) > 1 else None
        first = self._run(described, orders[0])
        expected = memory.save() if len(orders) > 1 else None
        for order in orders[1:]:
            memory.restore(before)
            self._run(described, order)
            if memory.save() != expected:
                raise Fault("results differ between orders of blocks and warps", self.name)
        return first

    def _run(self, described: engine.LaunchDescription, order: int) -> Counts:
        described.order = order
        result = engine.LaunchResult()
        if engine.library().emulator_launch(ctypes.byref(described), ctypes.byref(result)):
            text = self.program.texts[result.instruction]
            raise Fault(result.what.decode(), self.name, result.where.decode(), text.ptx, text.source)
        return Counts.of(result.counts)

    def check_limits(self, gpu: gpus.Gpu, size: gpus.LaunchSize) -> None:
        """LaunchError if the GPU would refuse a launch of that size, to which the kernel adds what it was compiled with."""
        threads = prod(self.directives.get("maxntid", self.directives.get("reqntid", (0,))))
        refused = gpus.why_refused(gpu, replace(size, static_shared=self.static_shared, compiled_threads=threads))
        if refused:
            raise LaunchError(f"kernel {self.name}: {refused}")

    def launch(self, grid, block, arguments: Sequence, *, gpu: gpus.Gpu | None = None, **options) -> Counts:
        """Runs every block on arrays and scalars.

        Args:
            grid, block: one to three sizes.
            arguments: one for each parameter: a NumPy array or a tensor in host memory (its address is passed, and all of it
                may be read and written), or a NumPy scalar or bytes of the parameter's size.
            gpu: whose limits the launch is held to.
            options: dynamic_shared, cluster, order, step_limit as for `launch_raw`.
        """
        if gpu:
            sizes = (three(grid), three(block), three(options.get("cluster", 1)))
            shared = options.get("dynamic_shared", 0)
            size = gpus.LaunchSize(*sizes, dynamic_shared=shared, granted_shared=shared, large_clusters=True)
            self.check_limits(gpu, size)
        memory = GlobalMemory()
        return self.launch_raw(three(grid), three(block), self.pack(arguments, memory), memory, **options)

    def pack(self, arguments: Sequence, memory: GlobalMemory) -> bytes:
        """The parameters' bytes; arrays are added to `memory`."""
        if len(arguments) != len(self.parameters):
            raise LaunchError(f"kernel {self.name} takes {len(self.parameters)} arguments, got {len(arguments)}")
        packed = bytearray(self.program.parameter_bytes)
        for (name, size, _, offset), argument in zip(self.parameters, arguments, strict=True):
            data = bytes_of(argument, memory)
            if len(data) != size:
                raise LaunchError(f"kernel {self.name}: parameter {name} has {size} bytes, the argument {argument!r} has {len(data)}")
            packed[offset : offset + size] = data
        return bytes(packed)


@dataclass(frozen=True)
class Argument:
    """An array and what a kernel may do with it."""

    array: object
    writable: bool = True
    defined: bool = True


def output(array) -> Argument:
    """An array that a kernel fills: what it holds before may not be read."""
    return Argument(array, defined=False)


def constant(array) -> Argument:
    """An array that a kernel may not write to."""
    return Argument(array, writable=False)


def bytes_of(argument, memory: GlobalMemory) -> bytes:
    """What a kernel gets as this argument; an array is added to the memory that it may touch."""
    how = dict(writable=True, defined=True)
    if isinstance(argument, Argument):
        how = dict(writable=argument.writable, defined=argument.defined)
        argument = argument.array
    if isinstance(argument, (bytes, np.generic)):
        return bytes(argument) if isinstance(argument, bytes) else argument.tobytes()
    if isinstance(argument, np.ndarray):
        memory.add_view(argument.ctypes.data, argument.itemsize, argument.shape, argument.strides, **how)
        return argument.ctypes.data.to_bytes(8, "little")
    if hasattr(argument, "data_ptr"):
        if argument.device.type != "cpu":
            raise LaunchError(f"the emulator runs on host memory, got a tensor on {argument.device}")
        strides = [stride * argument.element_size() for stride in argument.stride()]
        memory.add_view(argument.data_ptr(), argument.element_size(), argument.shape, strides, **how)
        return argument.data_ptr().to_bytes(8, "little")
    raise LaunchError(f"arguments are arrays, tensors, NumPy scalars or bytes, got {type(argument).__name__}")
