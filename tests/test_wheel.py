"""What is packed for others, and what it says where it does not fit."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pylayers
import pytest
import torch
from pylayers.library import library_folder

CHECKOUT = Path(__file__).parents[1]
MADE = {"build", "dist", "bench-report", "__pycache__", "build_info.json"}


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What is not kept in the repository."""
    links = {name for name in names if (Path(folder) / name).is_symlink()}
    return links | {name for name in names if name in MADE or name.startswith(".") or name.endswith((".so", ".egg-info", ".pyc"))}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The files of the checkout, and the archive that the build backend makes of them."""
    if not (CHECKOUT / "setup.py").exists():
        pytest.skip("the tests are not in a checkout")
    copy = tmp_path_factory.mktemp("sdist") / "checkout"
    shutil.copytree(CHECKOUT, copy, ignore=_left_out)
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    code = "import sys; sys.path.insert(0, 'build_support'); import backend; print(backend.build_sdist('dist'))"
    environment = {**os.environ, "PYLAYERS_CUDA": "0"}
    made = subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=True)
    with tarfile.open(copy / "dist" / made.stdout.splitlines()[-1]) as archive:
        packed = {name.partition("/")[2]: archive.extractfile(name) for name in archive.getnames() if archive.getmember(name).isfile()}
        return files, {name: file.read() for name, file in packed.items()}


def test_sdist_holds_everything(sdist):
    files, packed = sdist
    assert {"csrc/ops.def", "csrc/cuda/rms_norm.cu", "build_support/backend.py", "pylayers/cmake/pylayersConfig.cmake"} <= files
    made = {name for name in packed if name in ("PKG-INFO", "setup.cfg") or name.startswith("torch_pylayers.egg-info/")}
    assert packed.keys() - made == files


def test_metadata(sdist):
    """The version is that of pylayers/version.py; of torch, the minor version that is compiled against is asked for."""
    metadata = sdist[1]["PKG-INFO"].decode()
    assert re.search("^Version: (.*)$", metadata, re.MULTILINE)[1] == pylayers.__version__
    minor = ".".join(torch.__version__.split(".")[:2])
    assert re.findall("^Requires-Dist: (torch[^a-z\n].*)$", metadata, re.MULTILINE) == [f"torch=={minor}.*"]


def test_version_stands_in_one_place():
    files = [CHECKOUT / "setup.py", CHECKOUT / "pyproject.toml", *(CHECKOUT / "pylayers").glob("*.py"), *CHECKOUT.glob("pylayers/cmake/*")]
    assert [path.name for path in files if path.is_file() and f'"{pylayers.__version__}"' in path.read_text()] == ["version.py"]


def _import_error(folder: Path) -> str:
    """Of pylayers, where Python sees its own library and `folder` alone."""
    package = folder / "pylayers"
    package.mkdir()
    for path in (*Path(pylayers.__file__).parent.iterdir(), *library_folder.iterdir()):
        if not (package / path.name).exists():
            (package / path.name).symlink_to(path)
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import pylayers"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True).stderr.splitlines()[-1]


def test_without_torch(tmp_path):
    minor = ".".join(torch.__version__.split(".")[:2])
    assert _import_error(tmp_path) == (
        f"ModuleNotFoundError: pylayers: torch is not installed: run `pip install torch=={minor}.*`, for which the library was built"
    )


def test_with_another_torch(tmp_path):
    (tmp_path / "torch.py").write_text("__version__ = '1.0.0'")
    minor = ".".join(torch.__version__.split(".")[:2])
    error = _import_error(tmp_path)
    assert error.startswith(f"ImportError: pylayers: the compiled library was built for torch {minor}.") and "but this is torch 1.0.0: " in error
    assert f"run `pip install torch=={minor}.*`, take the wheel for this torch, or build the library again" in error
