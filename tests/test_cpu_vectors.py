"""The vector layer of the CPU kernels at every width, and the choice between instruction sets at run time."""

import shutil
import subprocess
from pathlib import Path

import pytest
from pylayers.library import doors
from test_backends import run_python

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
BEST = doors.cpu_capability()
# Without its intrinsics the AVX-512 width runs on any machine.
BUILDS = {
    "baseline": (16, []),
    "AVX2": (32, AVX2),
    "AVX-512": (64, AVX512),
    "32 bytes, portable": (32, ["-DPYLAYERS_PORTABLE"]),
    "64 bytes, portable": (64, ["-DPYLAYERS_PORTABLE"]),
}


@pytest.mark.parametrize("build", BUILDS)
def test_vectors(build, tmp_path):
    width, flags = BUILDS[build]
    compiler = shutil.which("g++") or pytest.skip("no g++")
    program = tmp_path / "vectors"
    macros = ["-DPYLAYERS_ISA=tested", f"-DPYLAYERS_VECTOR_BYTES={width}"]
    command = [compiler, "-std=c++17", "-O1", "-ffp-contract=fast", "-Wno-psabi", *macros, *flags]
    source = str(Path(__file__).parent / "vectors.cpp")
    subprocess.run([*command, source, "-o", str(program)], check=True, stderr=subprocess.DEVNULL)
    if (build == "AVX-512" and BEST != "avx512") or (build == "AVX2" and BEST == "baseline"):
        pytest.skip(f"compiled; this processor has no {build}")
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_lesser_instruction_sets_pass_their_checks(capability):
    """The best one is what all other tests run on. What float64 and float16 share with these dtypes is vectors of their size."""
    if ["baseline", "avx2", "avx512"].index(capability) >= ["baseline", "avx2", "avx512"].index(BEST):
        pytest.skip(f"this processor has {BEST}")
    code = (
        "import sys; from pylayers.__main__ import main; from pylayers.library import doors; print(doors.cpu_capability())\n"
        "sys.exit(any([main(['check', '--backend', 'cpu', '--dtype', dtype]) for dtype in ('float32', 'bfloat16')]))"
    )
    ran = run_python(code, PYLAYERS_CPU_CAPABILITY=capability)
    assert ran.returncode == 0 and ran.stdout.startswith(capability), ran.stdout + ran.stderr


def test_unknown_instruction_set_is_refused():
    ran = run_python("import pylayers", PYLAYERS_CPU_CAPABILITY="sse9")
    assert ran.returncode != 0 and "PYLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got sse9" in ran.stderr
