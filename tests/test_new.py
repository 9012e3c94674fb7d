"""The skeleton of a layer, and docs/writing-a-layer.md: generated, built and run as its readers would."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from pylayers.new import CLASS, NAME, TEMPLATE, names, snake_case

from pylayers.__main__ import main

DOCS = Path(__file__).parents[1] / "docs/writing-a-layer.md"
# The CUDA kernel is compiled by the emulator; building it into the extension too takes minutes.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYLAYERS_")} | {"PYLAYERS_CUDA": "0"}


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([str(one) for one in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def files(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file() and "__pycache__" not in one.parts}


@pytest.mark.parametrize(
    "layer,name",
    [("MyLayer", "my_layer"), ("RMSNormPlus", "rms_norm_plus"), ("Conv2dFast", "conv2d_fast"), ("ABC", "abc")],
)
def test_snake_case(layer, name):
    assert snake_case(layer) == name


def test_new_renames_everything(tmp_path, capsys):
    assert main(["new", "CubeRoot", "--path", str(tmp_path / "here")]) == 0
    assert "pip install --no-build-isolation --no-deps -e ." in capsys.readouterr().out
    folder = tmp_path / "here/cube_root"
    assert files(folder) == {one.replace(NAME, "cube_root") for one in files(TEMPLATE)}
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert NAME not in text and CLASS not in text, path
            if path.suffix == ".py":
                compile(text, str(path), "exec")
    assert "class CubeRoot(nn.Module)" in (folder / "cube_root/module.py").read_text()


@pytest.mark.parametrize(
    "layer,sentence",
    [
        ("my_layer", "in CamelCase, like MyLayer, got 'my_layer'"),
        ("2Layers", "in CamelCase"),
        ("My-Layer", "in CamelCase"),
        ("Lambda", "'lambda', which is a word of Python's"),
        ("Aten", "ops 'aten', and there are some of that name"),
        ("RMSNorm", "ops 'rms_norm', and there are some"),
        ("Json", "package 'json', and there is one of that name"),
    ],
)
def test_names_that_are_refused(layer, sentence):
    with pytest.raises(SystemExit, match=re.escape(sentence)) as raised:
        main(["new", layer])
    assert str(raised.value).startswith("new: ")
    assert names("MyLayer") == ("MyLayer", "my_layer")


def test_existing_folder_is_refused(tmp_path):
    (tmp_path / "my_layer").mkdir()
    with pytest.raises(SystemExit, match="is there already: remove it, or choose another --path"):
        main(["new", "MyLayer", "--path", str(tmp_path)])
    assert not list((tmp_path / "my_layer").iterdir())


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment that sees what this one has, and into which a package can be installed."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    seen = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({one!r})\n" for one in seen))
    return folder / "bin/python"


@pytest.fixture(scope="module")
def package(python, tmp_path_factory) -> Path:
    """The package, by the commands that the documentation begins with; the last one is left to a test."""
    folder = tmp_path_factory.mktemp("work")
    commands = blocks("")[0].splitlines()
    assert commands[-1] == "pytest"
    for command in commands[:-1]:
        program, *arguments = command.split()
        if program == "cd":
            folder = folder / arguments[0]
            continue
        ran = run(*{"python": [python], "pip": [python, "-m", "pip"]}[program], *arguments, cwd=folder)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return folder


def run_tests(python: Path, package: Path, *options: str) -> subprocess.CompletedProcess:
    return run(python, "-P", "-m", "pytest", "-p", "no:cacheprovider", *options, cwd=package)


def test_package_passes_as_generated(python, package):
    ran = run_tests(python, package)
    assert ran.returncode == 0, ran.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", ran.stdout)[1])
    assert passed > 80 and "failed" not in ran.stdout


# File, what is in it, what is planted instead, and the tests that must notice.
FAULTS = [
    ("csrc/cuda/scaled_tanh.cu", "w[i] * (1 - t * t)", "w[i] * (1 + t * t)", "emulated and cuda"),
]
MORE_FAULTS = [
    ("scaled_tanh/module.py", "self.weight, self.bias)", "self.weight.data, self.bias)", "test_ScaledTanh"),
    ("csrc/cuda/scaled_tanh.cu", "plan.blocks(shares)", "plan.blocks(shares + 1)", "emulated and cuda"),
    ("csrc/cuda/scaled_tanh.cu", "  add_groups(sums);\n", "", "emulated and cuda"),
    ("scaled_tanh/triton_kernels.py", "of_bias += g\n", "of_bias += t\n", "emulated and triton"),
]
FAULTS += [pytest.param(*one, marks=pytest.mark.slow) for one in MORE_FAULTS]


@pytest.mark.parametrize("file,old,new,noticed", FAULTS)
def test_planted_fault_fails(python, package, tmp_path, file, old, new, noticed):
    source = (package / file).read_text()
    assert source.count(old) == 1
    (package / file).write_text(source.replace(old, new))
    try:
        ran = run_tests(python, package, "-x", "-k", noticed)
    finally:
        (package / file).write_text(source)
    assert ran.returncode == 1 and " failed" in ran.stdout, ran.stdout[-2000:]


def test_excerpts_are_those_of_the_files():
    text = "\n".join((TEMPLATE / one).read_text() for one in sorted(files(TEMPLATE)))
    for block in blocks("cpp") + [one for one in blocks("python") if not one.startswith("import")]:
        assert block in text, block


@pytest.mark.parametrize("code", [one for one in blocks("python") if one.startswith("import")], ids=lambda one: one.splitlines()[-1][:30])
def test_code_of_the_documentation_runs(python, package, code):
    ran = run(python, "-P", "-c", code, cwd=package)
    assert ran.returncode == 0, ran.stderr[-2000:]
    if "TextbookLinear" in code:
        assert ran.stdout == blocks("")[1]


def test_table_of_files():
    told = {name for row in re.findall(r"^\| (`.*?) \|", DOCS.read_text(), re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    assert told <= files(TEMPLATE)
    others = {"README.md", "setup.py", "pyproject.toml", ".gitignore"}
    others |= {"scaled_tanh/__init__.py", "tests/conftest.py", "csrc/ops/scaled_tanh.h"}
    assert files(TEMPLATE) - told == others


def test_benchmark_runs(python, package):
    (command,) = (one.strip() for one in blocks("") if "benchmark.py" in one)
    program, file = command.split()
    assert program == "python"
    small = (package / file).read_text().replace("(2048, 4096)", "(16, 64)")
    shutil.copy(package / file, package / "small_benchmark.py")
    (package / "small_benchmark.py").write_text(small)
    ran = run(python, "small_benchmark.py", cwd=package)
    assert ran.returncode == 0 and "cpu" in ran.stdout and "eager" in ran.stdout, ran.stderr[-2000:]
