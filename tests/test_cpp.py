"""C++ programs on the ops: found by CMake, trained and served without Python."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pylayers.__main__ import main
from pylayers.benchmarks import serving, tables, targets
from pylayers.benchmarks.language_model import OURS, Config, build
from pylayers.benchmarks.records import Results
from pylayers.cmake_path import cmake_prefix_path
from pylayers.library import build_info, library_folder

EXAMPLES = Path(__file__).parents[1] / "examples/cpp"
OPS = library_folder / "_ops.abi3.so"
CONFIG = Config(dim=32, hidden=64, heads=2, blocks=1, tokens=24)
# One thread: several processes of many small steps wait for each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}


def _cmake() -> str:
    return serving.cmake() or pytest.skip("no cmake: neither on the path nor as a package (pip install cmake)")


def run(*command, **options) -> SimpleNamespace:
    done = subprocess.run([str(one) for one in command], capture_output=True, timeout=300, **options)
    return SimpleNamespace(code=done.returncode, out=done.stdout, error=done.stderr.decode(errors="replace"))


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """The folder of generate and train, as built by CMake."""
    if not (shutil.which(os.environ.get("CXX", "c++")) and shutil.which("make")):
        pytest.skip("no C++ compiler, or no make")
    folder = tmp_path_factory.mktemp("programs")
    made = run(_cmake(), "-G", "Unix Makefiles", "-S", EXAMPLES, "-B", folder, f"-DCMAKE_PREFIX_PATH={cmake_prefix_path()}",
               "-DCMAKE_CXX_FLAGS_RELEASE=-O0")  # fmt: skip
    assert made.code == 0, made.error
    built = run(_cmake(), "--build", folder)
    assert built.code == 0, built.error
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SimpleNamespace:
    """A model that looks at what it read, packed; `scores` is the one that Python has."""
    package = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "package.py")))
    scores = package.NextScores(build(CONFIG, OURS, torch.device("cpu"))).eval()
    with torch.no_grad():
        for one in scores.parameters():
            one.mul_(6 if one.dim() == 2 else 1)
    quick = {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0"}
    with torch._inductor.config.patch(quick), pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", lambda: [])  # no vectors, which are compiled to try them
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        path = package.pack(scores, tmp_path_factory.mktemp("model") / "model.pt2", CONFIG.tokens)
    return SimpleNamespace(path=path, scores=scores, continued=package.continued)


def test_same_losses_as_python(programs, one_thread):
    found = run(programs / "train", "--steps", 20, env=ENVIRONMENT)
    assert found.code == 0, found.error
    losses = {int(line.split()[1]): float(line.split()[3]) for line in found.out.decode().splitlines()}
    expected = _losses_of_plain_torch(20)
    assert losses == pytest.approx({step: expected[step - 1] for step in (1, 10, 20)}, rel=1e-3)
    assert losses[20] < losses[10] < losses[1]


def _losses_of_plain_torch(steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 16, generator=generator)
    target = (x @ torch.randn(16, 4, generator=generator)).argmax(1)
    weight1 = torch.randn(64, 16, generator=generator) / 4
    weight2 = torch.randn(4, 64, generator=generator) / 8
    parameters = [one.requires_grad_() for one in (weight1, torch.zeros(64), torch.ones(64), weight2)]
    optimizer, losses = torch.optim.SGD(parameters, lr=0.5), []
    for _ in range(steps):
        hidden = F.gelu(F.linear(x, parameters[0], parameters[1]))
        loss = F.cross_entropy(F.linear(F.rms_norm(hidden, (64,), parameters[2]), weight2), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_same_text_as_python(programs, model, one_thread):
    """For more bytes than the model reads at a time, from one byte on."""
    packed = torch._inductor.aoti_load_package(str(model.path))
    for prompt in ("d", "def forward(self, x: Tensor, y: Tensor) -> Tensor:"):
        found = run(programs / "generate", model.path, "--prompt", prompt, "--bytes", 40, env=ENVIRONMENT)
        assert found.code == 0 and "bytes/s" in found.error, found.error
        for scores in (model.scores, packed):
            assert found.out == model.continued(scores, prompt.encode(), 40, CONFIG.tokens) + b"\n"
        assert len(set(found.out[len(prompt) :])) > 10


def test_no_python(programs, model, tmp_path):
    """Neither in what the programs load, nor among the symbols that the libraries want."""
    with zipfile.ZipFile(model.path) as archive:
        (inner,) = (name for name in archive.namelist() if name.endswith(".so"))
        (tmp_path / "model.so").write_bytes(archive.read(inner))
    for path in (programs / "train", programs / "generate", OPS):
        assert "libc10" in (loaded := run("ldd", path).out.decode())
        assert "python" not in "".join(line.split()[0] for line in loaded.splitlines())
    for path in (programs / "train", programs / "generate", OPS, tmp_path / "model.so"):
        wanted = run("nm", "-D", "--undefined-only", path).out.decode().split()
        assert len(wanted) > 20 and not [name for name in wanted if name.startswith(("Py", "_Py"))]


def _sealed(content: bytes) -> bytes:
    return content[:-8] + b"%08x" % zlib.crc32(content[:-8])


@pytest.fixture
def faulty(model, tmp_path) -> Path:
    """A folder of packages that are none, and of a library for another torch."""
    content = model.path.read_bytes()
    assert content == _sealed(content)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    other = content.replace(b'"pylayers.torch": "2', b'"pylayers.torch": "1')
    for name, one in (("damaged", bytes(flipped)), ("cut", content[:-9]), ("another", _sealed(other))):
        (tmp_path / f"{name}.pt2").write_bytes(one)
    torch.save({"weight": torch.ones(2)}, tmp_path / "foreign.pt2")
    (tmp_path / "build_info.json").write_text((library_folder / "build_info.json").read_text().replace(build_info["torch"], "1.0.0"))
    (tmp_path / OPS.name).symlink_to(OPS)
    return tmp_path


def test_faults_of_generate(programs, model, faulty):
    for arguments, sentence in (
        ((), "needs one package: generate MODEL.pt2"),
        ((model.path, "--bytes"), "--bytes needs a value"),
        ((model.path, "--bytes", "0"), '--bytes must be a number between 1 and 1000000, got "0"'),
        ((model.path, "--prompt", ""), "--prompt must not be empty"),
        ((faulty / "nowhere.pt2",), "there is no file"),
        *(((faulty / f"{name}.pt2",), "is damaged, or was not made by package.py") for name in ("damaged", "cut", "foreign")),
        ((faulty / "another.pt2",), "was made with torch 1."),
        ((model.path, "--ops", faulty / OPS.name), "was built for torch 1.0.0, but this program for torch 2."),
        ((model.path, "--ops", "/nowhere.so"), "cannot load the ops: /nowhere.so"),
    ):
        found = run(programs / "generate", *arguments, env=ENVIRONMENT)
        assert found.code == 1 and sentence in found.error and found.error.count("\n") == 1, f"{arguments}: {found}"
        assert found.error.startswith("generate: ") and not found.out


def test_faults_of_train(programs):
    for arguments, sentence in ((("--steps", "many"), 'got "many"'), (("--rate", "1"), 'takes --steps alone, got "--rate"')):
        found = run(programs / "train", *arguments, env=ENVIRONMENT)
        assert found.code == 1 and sentence in found.error and not found.out


def test_cmake_prefix_path(capsys):
    assert main(["cmake"]) == 0
    ours, of_torch = capsys.readouterr().out.rstrip("\n").split(";")
    assert (Path(ours) / "pylayersConfig.cmake").exists() and (Path(of_torch) / "Torch/TorchConfig.cmake").exists()


def test_faults_of_find_package(tmp_path):
    """A folder that lacks something, in CMake's words."""
    package = tmp_path / "pylayers"
    shutil.copytree(library_folder / "cmake", package / "cmake")
    shutil.copy(library_folder / "version.py", package)
    torch_cmake = cmake_prefix_path().split(";")[1]
    script = tmp_path / "find.cmake"
    script.write_text("cmake_policy(VERSION 3.20)\nfind_package(pylayers ${WANTED} REQUIRED)\n")

    def sentence(folders, wanted=""):
        found = run(_cmake(), f"-DCMAKE_PREFIX_PATH={folders}", f"-DWANTED={wanted}", "-P", script)
        assert found.code != 0
        return " ".join(found.error.split())

    ours = str(package / "cmake")
    assert f"pylayers: the compiled library is not in {package}: install the package" in sentence(ours)
    (package / OPS.name).symlink_to(OPS)
    assert "pylayers: the C++ headers, csrc, are neither in" in sentence(ours)
    (package / "csrc/ops").mkdir(parents=True)
    (package / "csrc/ops/ops.h").touch()
    assert "pylayers: torch is neither in CMAKE_PREFIX_PATH nor beside" in sentence(ours)
    (package / "build_info.json").write_text('{\n  "torch": "1.0.0"\n}')
    assert "pylayers: the compiled library was built for torch 1.0, but" in sentence(f"{ours};{torch_cmake}")
    assert "compatible with requested version" in sentence(ours, "99")


def test_bench(programs, model, monkeypatch):
    """Text by all ways, and what the report says of it; a machine without CMake is told."""
    names = {"NextScores": lambda _: model.scores, "pack": lambda *_: model.path, "continued": model.continued}
    monkeypatch.setattr(serving.runpy, "run_path", lambda _: names)
    monkeypatch.setattr(serving, "_built", lambda _: programs / "generate")
    found = serving.measure(CONFIG, count=5)
    assert not [entry.note for entry in found.entries.values() if entry.note] and found.speedup("C++", "package") > 0
    results = Results({}, "cpu", False, cases=[found])
    assert tables.serving(results).rows[0][0].text == "1×32×24" and [target["met"] in (True, False) for target in targets.judge(results)] == [True]
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "cmake", None)
    assert {entry.note for entry in serving.measure(CONFIG, count=5).entries.values()} == {"n/a: needs cmake (pip install cmake)"}
