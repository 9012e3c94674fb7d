"""The resource report of the kernels as they were built and linked: what a GPU-less machine can tell of their speed."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from pylayers.library import build_info, library_folder

KERNELS = {
    **{
        f"norm_{step}_rows{kind}": f"{step} of rows that fit registers"
        for step in ("forward", "backward")
        for kind in ("INS0_7RmsNorm", "INS0_9LayerNorm", "INS0_10AddRmsNorm", "INS0_12AddLayerNorm")
    },
    "gate_forward": "gate and up",
    "gate_backward": "grad, gate and up",
    "linear_epilogue": "product",
    "bilinear_outer": "right",
    "bilinear_right_sum": "block and the sums before",
    "center_rows": "rows that fit registers",
    "center_columns": "columns that fit registers",
    "center_subtract": "x of which the means are known",
    "halve_until_scale": "x",
    "group_norm_held": "groups that fit registers",
    "group_norm_apply": "x of which the statistics are known",
    "group_norm_gradient": "grad and x",
    "group_norm_last_apply": "x of which the statistics are known, channels last",
    "group_norm_last_gradient": "grad and x, channels last",
    "dropout_add_forward": "x and residual",
    "dropout_add_backward": "grad",
    "softmax_forward_rows": "forward of rows that fit registers",
    "softmax_backward_rows": "backward of rows that fit registers",
    "softmax_columns_forward": "columns",
    "softmax_columns_backward": "columns",
    "cross_entropy_backward": "logits and their gradient",
    "rotary": "both vectors of a head",
    "pointwise_loss_each": "input and target",
    "pointwise_loss_gradients": "input and target",
}
# Their sums are stored one by one.
ONLY_LOADS = {"bilinear_left_sum": "block and right", "group_norm_moments": "x", "group_norm_sums": "grad and x", "cross_entropy_forward": "logits"}
ONLY_LOADS["pointwise_loss_sums"] = "input and target"


def cuobjdump() -> str | None:
    """Triton's wheel brings it, and so does the toolkit."""
    spec = find_spec("triton")
    wheel = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec else None
    return str(wheel) if wheel and wheel.exists() else shutil.which("cuobjdump")


@pytest.fixture(scope="module")
def report():
    if not build_info["cuda"]:
        pytest.skip(f"no CUDA kernels in this build ({build_info['note']})")
    if cuobjdump() is None:
        pytest.skip("no cuobjdump")

    def run(*arguments: str) -> str:
        command = [cuobjdump(), *arguments, str(library_folder / "_ops.abi3.so")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


def test_no_spills_and_no_local_memory(report):
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report("-res-usage"))
    assert len(usage) > 50
    for name, _, stack, local in usage:
        assert stack == local == "0", name


def test_sixteen_byte_accesses(report):
    architecture = "sm_" + build_info["architectures"][0].removesuffix("+PTX").replace(".", "")
    wide, function = {}, ""
    for line in report("-sass", "-arch", architecture).splitlines():
        if "Function :" in line:
            function = line.split()[-1]
        elif ".128" in line and (access := re.search(r"\b(LDG|STG)\.E(?:\.\w+)*?\.128\b", line)):
            wide.setdefault(function, set()).add(access[1])
    for kernel, what in {**KERNELS, **ONLY_LOADS}.items():
        kinds = {"LDG"} if kernel in ONLY_LOADS else {"LDG", "STG"}
        found = any(kernel in name and kinds <= accesses for name, accesses in wide.items())
        assert found, f"{kernel} ({what}) has no 16-byte {' and '.join(sorted(kinds))}"
