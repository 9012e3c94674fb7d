"""Every example runs, and says what it is there to say."""

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# Patterns that the output must have.
CHAPTER = {
    "model_construction": [
        r"Sequential: \(2, 10\)", r"own: \(2, 10\)", r"control flow: \(\) gradient finite: True", r"tower of 100 blocks: \(2, 20\)",
        r"parallel: \(2, 8\)", r"hook of \['Linear'\]", "compiled equals eager: True",
        r"\(0\): Linear\(in_features=20, out_features=256, bias=True, activation='relu'\)",
    ],
    "parameters": [
        r"by index: True \(1, 8\)", r"by name: \(8,\)", r"\('0.weight', \(8, 4\)\)", r"by pattern: \['0.weight', '1.weight'\]",
        "gradient before backward: None", r"direct writes are seen: \[3.0, 3.0\]", "one tensor object: True", "the sum of two: True",
        "survives deepcopy: True", r"survives .to\(float64\): True", r"1 parameter, gradient \(50, 16\)",
    ],
    "initialisation": [
        "torch.nn under one seed: True", r"Gaussian: 0.0\d\d bias 0.0", "Xavier's bound: True", "constant: 42.0",
        r"0\.[45]\d zeros, others within \[5\.\d, (9\.\d|10\.0)\]", "reproducible from a generator: True", r"\[0.5, 0.5, 0.5\]",
        "the same objects: True", "back to the constant: 42.0 and bias drawn anew: True", "on the meta device: meta",
    ],
    "lazy_initialisation": [
        "before data: LazyLinear", "cannot be used: LazyLinear.weight has no shape", r"after data: Linear \(256, 20\) \(10, 256\)",
        "the same object: True plain class: True", "made before trains it: True", r"takes its state: \(256, 20\)",
        "then an initialiser: 1.0", r"other sizes later: linear: .* 20 .*\[2, 21\]",
    ],
    "custom_layers": [
        r"centred: \[-2.0, -1.0, 0.0, 1.0, 2.0\]", "about 0: True", r"book's layout: \(5, 3\) \(2, 3\)", r"Sequential: \(2, 1\)",
        "contract of MyLinear: passed", "contract of the listing: failed\n +FAIL gradients reach every parameter .*'weight', 'bias'",
    ],
    "reading_and_writing": [
        r"\[0, 1, 2, 3\] \[0.0, 0.0, 0.0, 0.0\] tensors", "the same bits: True", "one bit flipped: DamagedFile - True",
        r"another net: True \| second stays: \(2, 256\)", r"1.weight: the net has \[2, 256\], got \[10, 256\]",
        "resumed at step 12 and ended with the same bits: True",
    ],
    "gpus": [
        "never an empty list: True", "using (cpu|cuda)", "on one device: True", "keeps identity: True", "two devices: linear: .*cpu|cuda",
        "logged 10 losses, falling: True", r"1000 products of 100×100 against one of 1000×1000: \d",
    ],
}  # fmt: skip
EXERCISES = {
    "modules_in_a_list": [r"parameters in a list: 0 \| in a ModuleList: 4", "saved from a list: 0", r"layers\[0\]"],
    "parallel_block": [r"concatenated: \(6, 20\) True", r"any two networks: \(6, 24\)", "both learn: True"],
    "factory_of_blocks": [r"blocks: 100 \| output: \(4, 3\)", "all have gradients: True"],
    "shared_layer": ["step 150: loss", r"still one tensor: True \| in parameters\(\) once: True", "loss fell: True"],
    "every_initialiser": ["Linear: 13 of 14", "RMSNorm: 6 of 14", "Bilinear: 12 of 14", "TensorReduction: 12 of 14", "43 combinations"],
    "sizes_of_the_first_layer": [r"\[\(256, 20\), \(128, 256\), \(10, 128\)\]", "initialise it again: True", r"must be 128 .*\[2, 256\]"],
    "inputs_of_varying_width": [f"width +{width}: as if padded with zeros: True, columns with gradient: {width}" for width in (16, 9, 3)],
    "tensor_reduction": [r"output: \(3, 4\) True", r"\(3, 6\) \(4, 6, 6\)", "84 of 144"],
    "leading_fourier": ["coefficients: 8 of 16", "as by torch.fft: True", r"\[2, 5\]"],
    "centred_affine": ["mean removed: True", r"learned offset: \[0.5, 1.0, -2.0\]"],
    "resume": ["resumed at step 17 .* interruption: True"],
    "reuse_first_layers": [r"features.0.weight \(from 0.weight\)", "missing: 2", "taken: True", "have no gradient: True"],
    "saving_the_architecture": ["not registered: save_model: .*Residual", "the same bits: True"],
    "crossover": [r"1024 × 1024: cpu", "skipped, there is no GPU here|the GPU wins from|never did"],
    "parameters_on_a_gpu": [r"read back: \[1.5\] from (cpu|cuda)", "loaded on the CPU: cpu True"],
    "logging_norms": ["one by one on", "on the device on", "fused on", "the same norms: True 1000"],
    "two_gpus": ["skipped|two products on two GPUs take"],
}


def output_of(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_all_are_tested():
    for folder, tested in (("chapter", CHAPTER), ("exercises", EXERCISES)):
        assert {path.stem for path in (EXAMPLES / folder).glob("*.py")} == tested.keys()


@pytest.mark.parametrize("name", CHAPTER)
def test_chapter(name, capsys):
    output = output_of(f"chapter/{name}", capsys)
    for pattern in CHAPTER[name]:
        assert re.search(pattern, output), f"{pattern} is not in:\n{output}"


@pytest.mark.parametrize("name", EXERCISES)
def test_exercises(name, capsys):
    output = output_of(f"exercises/{name}", capsys)
    for pattern in ("Answer: ", *EXERCISES[name]):
        assert re.search(pattern, output), f"{pattern} is not in:\n{output}"


def test_ones_vs_zeros(capsys):
    pytest.importorskip("sklearn")
    rates = [float(rate) for rate in re.findall(r"([\d.]+)% of held-out", output_of("ones_vs_zeros", capsys))]
    assert len(rates) == 2 and min(rates) >= 98


def test_train_lm(capsys, monkeypatch):
    """Of pairs of bytes, whose logits would be most of what a small model takes."""
    sizes = "--steps 4 --dim 32 --hidden 64 --heads 2 --blocks 1 --batch 4 --tokens 128 --bytes-per-token 2"
    monkeypatch.setattr("sys.argv", ["train_lm.py", *sizes.split()])
    output = output_of("train_lm", capsys)
    before, after = (float(found) for found in re.findall(r"held-out loss \w+: +([\d.]+)", output))
    assert after < before < 11.2
    peaks = re.search(r"peak memory of a step: ([\d,]+) MB with logits, ([\d,]+) MB with LinearCrossEntropyLoss", output)
    with_logits, without = (int(peak.replace(",", "")) for peak in peaks.groups())
    assert without < with_logits / 2
    assert output.rstrip().splitlines()[-1]  # what it writes


def on_ranks(count, *arguments):
    """train_lm.py as torchrun starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill_a_rank(run, folder, step, psutil):
    """Once the checkpoint of a step is there."""
    limit = time.monotonic() + 120
    while not (folder / f"step-{step}" / ".metadata").exists() and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    ranks = [one for one in psutil.Process(run.pid).children() if "RANK" in one.environ()]
    assert len(ranks) == 2
    ranks[-1].kill()


@pytest.mark.filterwarnings("ignore")
def test_train_lm_goes_on_when_ranks_die(capsys, monkeypatch, tmp_path):
    """Two ranks are started again after one was killed, and then end with an error; another run, of one, goes on from their last
    checkpoint. The losses are those of a run that nothing happened to."""
    psutil = pytest.importorskip("psutil")
    same = [EXAMPLES / "train_lm.py", *"--steps 300 --dim 32 --hidden 64 --heads 2 --blocks 1 --batch 4 --tokens 64".split()]
    saved = [*same, "--checkpoint", tmp_path, "--save-every", "10"]
    run = on_ranks(2, "--max-restarts=1", *saved, "--parallel", "tp")
    for step in (30, 80):
        kill_a_rank(run, tmp_path, step, psutil)
    output = run.communicate(timeout=120)[0]
    assert run.returncode and output.count("going on from step") == 1 and "step  300" not in output, output
    assert 2 <= len(list(tmp_path.glob("step-*/.metadata"))) <= 3  # older ones are removed

    run = on_ranks(1, *saved, "--parallel", "fsdp")
    output = run.communicate(timeout=120)[0]
    assert run.returncode == 0 and "going on from step" in output, output
    monkeypatch.setattr("sys.argv", [str(one) for one in same])
    after, whole = (dict(re.findall(r"step +(\d+)  loss ([\d.]+)", text)) for text in (output, output_of("train_lm", capsys)))
    assert len(whole) == 30 > len(after) > 0
    assert {step: float(loss) for step, loss in after.items()} == pytest.approx({step: float(whole[step]) for step in after}, abs=0.02)


def test_tour(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    output = "".join(str(one) for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs)
    for wanted in ("torch.Size([8, 10])", "zeros, others from", "gradients reach every parameter", "True", "[2.0, 3.0, 4.0]", "pylayers "):
        assert wanted in output, f"{wanted} is not in {output}"

