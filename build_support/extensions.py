"""The two shared objects, and how they are compiled."""

import json
import os
import platform
import re
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension, get_cxx_compiler

# Every file of csrc/cpu that holds kernels is compiled once more for each of these, beside the baseline.
INSTRUCTION_SETS = {
    "avx2": ("avx2,fma,f16c,bmi2", 32),
    "avx512": ("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,bmi2", 64),
}
# -fopenmp makes at::parallel_for parallel; libgomp itself comes with torch, so that there is only one. Most of the time to compile
# an op is reading torch's headers: with the define, those of the operators that it names. The standard is the one that torch 2.13 and
# later ask for; torch 2.11 would choose an older one, which the precompiled header does not fit.
FLAGS = ["-std=c++20", "-O2", "-g0", "-fopenmp", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi",
         "-Wno-maybe-uninitialized", "-DAT_PER_OPERATOR_HEADERS"]
# What every op includes. Compilers read it once, for all ops, where they can.
PRELUDE = "#include <ATen/TensorOperators.h>\n#include <ATen/core/Tensor.h>\n#include <torch/library.h>\n"
LINK = ["-Wl,-s", "-Wl,-rpath,$ORIGIN"]
MEMORY_PER_JOB = 2 << 30


def torch_requirement() -> str:
    """A compiled extension fits one minor version of torch."""
    major, minor = torch.__version__.split(".")[:2]
    return f"torch=={major}.{minor}.*"


def _write_if_changed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _per_instruction_set(root: Path) -> list[str]:
    """Sources that include a kernel file under another instruction set; the pragma spares us flags per file."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    sources = []
    for kernel in _cpu_kernels(root):
        for name, (target, width) in INSTRUCTION_SETS.items():
            source = root / "build" / "instruction_sets" / f"{kernel.stem}_{name}.cpp"
            _write_if_changed(
                source,
                f'#pragma GCC target("{target}")\n#define PYLAYERS_ISA {name}\n#define PYLAYERS_VECTOR_BYTES {width}\n'
                f'#include "{kernel}"\n',
            )
            sources.append(source.relative_to(root))
    return [str(source) for source in sources]


def _cpu_kernels(root: Path) -> list[Path]:
    return sorted(path for path in (root / "csrc/cpu").glob("*.cpp") if path.stem != "parallel")


def _behind_prelude(root: Path) -> list[str]:
    """Sources that include an op behind the headers that all of them have: a compiler takes these precompiled, but first of all."""
    folder = root / "build" / "ops"
    _write_if_changed(folder / "prelude.h", PRELUDE)
    ops = sorted((root / "csrc/ops").glob("*.cpp"))
    for op in ops:
        _write_if_changed(folder / op.name, f'#include "prelude.h"\n#include "{op}"\n')
    return [str((folder / op.name).relative_to(root)) for op in ops]


def _sources(root: Path, *patterns: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern))


def _nvcc_flags(toolkit) -> list[str]:
    """The profiler's line numbers make kernels eight times as large, unless they are compressed, which CUDA 13 can."""
    compressed = ["--compress-mode=size"] if toolkit.version and int(toolkit.version.split(".")[0]) >= 13 else []
    return ["-O3", "-lineinfo", "-Xcompiler=-fvisibility=hidden", *compressed]


def modules(root: Path, toolkit) -> list:
    os.chdir(root)
    cuda = toolkit.home is not None
    headers = _sources(root, "csrc/**/*.h", "csrc/**/*.cuh", "csrc/ops.def")
    ops = (CUDAExtension if cuda else CppExtension)(
        "pylayers._ops",
        _sources(root, "csrc/registry.cpp", "csrc/cpu/*.cpp", *(["csrc/cuda/*.cu"] if cuda else []))
        + _behind_prelude(root) + _per_instruction_set(root),
        extra_compile_args={"cxx": FLAGS, "nvcc": _nvcc_flags(toolkit)},
        extra_link_args=LINK,
        depends=headers,
        py_limited_api=True,
    )
    doors = CppExtension(
        "pylayers._C",
        ["csrc/bindings.cpp"],
        extra_compile_args={"cxx": FLAGS},
        extra_link_args=LINK + ["-l:_ops.abi3.so"],
        depends=headers,
    )
    doors.toolkit = toolkit
    return [ops, doors]


def of_package(name: str, root: Path, toolkit, include: Path, library: Path):
    """The shared object of a package with kernels of its own, linked against our ops library."""
    os.chdir(root)
    cuda = toolkit.home is not None
    defines = ["-DPYLAYERS_OPS=<ops.def>"]
    return (CUDAExtension if cuda else CppExtension)(
        name,
        _sources(root, "csrc/*.cpp", "csrc/ops/*.cpp", "csrc/cpu/*.cpp", *(["csrc/cuda/*.cu"] if cuda else []))
        + _per_instruction_set(root),
        include_dirs=[str(root / "csrc"), str(include)],
        library_dirs=[str(library)],
        extra_compile_args={"cxx": FLAGS + defines, "nvcc": [*_nvcc_flags(toolkit), *defines]},
        extra_link_args=["-Wl,-s", f"-Wl,-rpath,$ORIGIN/../pylayers:{library}", "-l:_ops.abi3.so"],
        depends=_sources(root, "csrc/**/*.h", "csrc/**/*.cuh", "csrc/ops.def"),
    )


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that are free or would be: files that the system keeps in memory, such as those of packages just installed, do not count."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit_jobs() -> None:
    if "MAX_JOBS" in os.environ:
        return
    os.environ["MAX_JOBS"] = str(max(1, min(os.cpu_count() or 1, available_memory() // MEMORY_PER_JOB)))


class BuildPackage(BuildExtension):
    def build_extensions(self):
        _limit_jobs()
        super().build_extensions()


class Build(BuildExtension):
    """Links _C against _ops, and records what the library was built for."""

    def build_extensions(self):
        _limit_jobs()
        ops, doors = self.extensions
        folder = Path(self.get_ext_fullpath(ops.name)).parent
        doors.library_dirs.append(str(folder))
        with self._precompiled(Path("build/ops/prelude.h"), ops):
            super().build_extensions()
        self._record(folder, doors.toolkit)

    @contextmanager
    def _precompiled(self, header: Path, ops):
        """Precompiles a header for the compilers that find it by its name, with the flags that the ops get. One that does not fit
        is not used, and one that cannot be made is not needed."""
        result = header.with_suffix(".h.gch")
        directories = [f"-I{path}" for path in (*self.compiler.include_dirs, *ops.include_dirs)]
        flags = [*self.compiler.compiler_so[1:], *directories, *FLAGS, "-w", "-x", "c++-header"]
        compiler = shlex.split(get_cxx_compiler())  # as in CXX="ccache g++"
        try:
            subprocess.run([*compiler, *flags, header, "-o", result], stderr=subprocess.DEVNULL, check=False)
            yield
        finally:
            result.unlink(missing_ok=True)  # hundreds of megabytes

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        package = self.get_finalized_command("build_py").get_package_dir("pylayers")
        self._record(Path(package), self.extensions[1].toolkit)

    def _record(self, folder: Path, toolkit) -> None:
        info = {
            "torch": torch.__version__,
            "cuda": torch.version.cuda if toolkit.home else None,
            "architectures": toolkit.architectures,
            "note": toolkit.note,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build_info.json").write_text(json.dumps(info, indent=2) + "\n")
