"""examples/generate.py on checkpoints that transformers wrote: the text is transformers' own, token for token."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
EXAMPLE = Path(__file__).parents[1] / "examples" / "generate.py"
PROMPT = "A layer of one's own"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(EXAMPLE.read_text().splitlines(), vocab_size=400)
    tokenizer.save_model(str(folder))
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=400, n_embd=48, n_layer=3, n_head=4, n_positions=64, bos_token_id=399, eos_token_id=399)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # layers that matter beside the embeddings, so that the text is not one token again and again
        for name, one in model.named_parameters():
            one.mul_(0.5 if "wte" in name else 8.0 if one.dim() == 2 else 1.0)
        model.transformer.ln_f.bias.normal_()
    model.save_pretrained(folder)
    return folder


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    return capsys.readouterr().out


def expected(folder, prompt, count):
    tokenizer = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    tokens = tokenizer.encode(prompt).ids
    found = model.generate(torch.tensor([tokens]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=399)[0, len(tokens) :].tolist()
    assert len(set(found)) > count // 3
    return prompt + tokenizer.decode(found) + "\n"


@pytest.mark.parametrize("prompt", [PROMPT, "def forward(self, x: Tensor"])
def test_same_text(checkpoint, capsys, monkeypatch, prompt):
    found = run(capsys, monkeypatch, "--checkpoint", checkpoint, "--prompt", prompt, "--tokens", 30)
    assert found == expected(checkpoint, prompt, 30)


def test_other_files(checkpoint, capsys, monkeypatch, tmp_path):
    """Names without the prefix, a mask among the weights, and tokenizer.json: as the first release has them."""
    from safetensors.torch import load_file, save_file

    weights = {name.removeprefix("transformer."): one for name, one in load_file(checkpoint / "model.safetensors").items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    tokenizers.ByteLevelBPETokenizer(str(checkpoint / "vocab.json"), str(checkpoint / "merges.txt")).save(str(tmp_path / "tokenizer.json"))
    found = run(capsys, monkeypatch, "--checkpoint", tmp_path, "--prompt", PROMPT, "--tokens", 20)
    assert found == expected(checkpoint, PROMPT, 20)


def test_drawn_text(checkpoint, capsys, monkeypatch):
    """The same by the same seed, another by another, and no token but the likeliest where one alone may be drawn."""
    arguments = ("--checkpoint", checkpoint, "--prompt", PROMPT, "--tokens", 20, "--temperature", 1.5)
    one, again, other = (run(capsys, monkeypatch, *arguments, "--seed", seed) for seed in (1, 1, 2))
    assert one == again != other
    assert run(capsys, monkeypatch, *arguments, "--top-k", 1) == expected(checkpoint, PROMPT, 20)


def test_bad_input(checkpoint, capsys, monkeypatch, tmp_path):
    for arguments, sentence in (
        (("--checkpoint", tmp_path, "--prompt", "a"), "has no config.json"),
        (("--checkpoint", checkpoint, "--prompt", ""), "the prompt has 0 tokens"),
        (("--checkpoint", checkpoint, "--prompt", "0 1 " * 99), "and must have between 1 and 63"),
    ):
        with pytest.raises(SystemExit):
            run(capsys, monkeypatch, *arguments)
        assert sentence in capsys.readouterr().err
