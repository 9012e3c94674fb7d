"""Models of other packages, converted: the same numbers, the same training, the same text, and the way back."""

import copy
import io

import pytest
import torch
from torch.utils._pytree import tree_leaves

import pylayers

pytest.importorskip("transformers")
pytest.importorskip("timm")
pytest.importorskip("diffusers")
from pylayers.benchmarks.models import CAUSAL, MODELS, TINY, made  # noqa: E402

every_model = pytest.mark.parametrize("name", MODELS)
every_causal = pytest.mark.parametrize("name", CAUSAL)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


def tensors(output):
    output = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [one for one in tree_leaves(output) if isinstance(one, torch.Tensor) and one.is_floating_point()]


def loss_of(output):
    found = getattr(output, "loss", None)
    return tensors(output)[0].float().square().mean() if found is None else found


def numbers(model, inputs):
    """Outputs, and the gradient of each parameter that has one."""
    output = model(**inputs)
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    gradients = torch.autograd.grad(loss_of(output), list(parameters.values()), allow_unused=True)
    return [one.detach() + 0 for one in tensors(output)], {name: one for name, one in zip(parameters, gradients) if one is not None}


def cast(inputs, dtype):
    return {name: one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for name, one in inputs.items()}


def error(found, exact, scale):
    return float((found.double() - exact).abs().max() / scale)


def errors_of_gradients(gradients, exact):
    return {key: error(gradients[key], one, scale_of(one, exact)) for key, one in exact.items()}


def rolled(inputs, by):
    """Other numbers of the same kind."""
    return {name: one.roll(by, -1) if isinstance(one, torch.Tensor) else one for name, one in inputs.items()}


def scale_of(gradient, gradients):
    """Some are 0 but for rounding."""
    return max(float(gradient.abs().max()), max(float(one.abs().max()) for one in gradients.values()) / 100)


def errors_in_order(model, several, exact):
    """Of each gradient, on several inputs."""
    found = [errors_of_gradients(numbers(model, one)[1], true) for one, (_, true) in zip(several, exact)]
    return {key: sorted(each[key] for each in found) for key in found[0]}


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_convert(name, dtype):
    """Outputs and gradients are as near to float64 as the original's, within twice its error; for gradients the median of ours and the
    worst of its own on three inputs, since one may be near or far by luck. And revert gives its bits."""
    model, inputs = made(name, TINY, dtype=dtype)
    several = [inputs, rolled(inputs, 1), rolled(inputs, 2)]
    outputs, gradients = numbers(model, inputs)
    double = copy.deepcopy(model).double()
    exact = [numbers(double, cast(one, torch.float64)) for one in several]
    theirs = {key: worst for key, (_, _, worst) in errors_in_order(model, several, exact).items()}
    keys = list(model.state_dict())
    report = pylayers.convert(model)
    our_outputs, our_gradients = numbers(model, inputs)
    assert report.replaced and list(model.state_dict()) == keys and our_gradients.keys() == gradients.keys()
    rounding = 4 * torch.finfo(dtype).eps
    for ours, original, true in zip(our_outputs, outputs, exact[0][0]):
        scale = true.abs().max()
        assert ours.dtype == original.dtype
        assert error(ours, true, scale) <= 2 * error(original, true, scale) + rounding
    ours = {key: median for key, (_, median, _) in errors_in_order(model, several, exact).items()}
    usual = sorted(theirs.values())[len(theirs) // 2]  # of some gradients it is 0 by luck
    for key in theirs:
        assert ours[key] <= 2 * max(theirs[key], usual) + rounding, key
    pylayers.revert(model)
    again_outputs, again_gradients = numbers(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(again_outputs, outputs))
    assert all(torch.equal(again_gradients[key], gradients[key]) for key in gradients)
    assert not any(module.__module__.startswith("pylayers") for module in model.modules())


def losses(model, inputs, steps=20):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(steps):
        loss = loss_of(model(**inputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss))
    return found


@every_model
def test_converted_models_train_as_before(name):
    model, inputs = made(name, TINY)
    original = copy.deepcopy(model)
    pylayers.convert(model)
    torch.testing.assert_close(losses(model, inputs), losses(original, inputs), rtol=2e-4, atol=2e-5)


@every_causal
def test_converted_models_write_the_same_text(name):
    model, inputs = made(name, TINY)
    model.eval()
    options = dict(max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
    prompt = inputs["input_ids"][:, :5]
    expected = model.generate(prompt, **options)
    pylayers.convert(model)
    assert torch.equal(model.generate(prompt, **options), expected)
    assert torch.equal(model.generate(prompt, use_cache=False, **options), expected)


@pytest.mark.parametrize("name,prompt", [("t5", "input_ids"), ("whisper", "input_features")])
def test_converted_models_of_two_parts_write_the_same_text(name, prompt):
    model, inputs = made(name, TINY)
    model.eval()
    options = {prompt: inputs[prompt], "max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    expected = model.generate(**options)
    pylayers.convert(model)
    assert torch.equal(model.generate(**options), expected)


@every_causal
def test_no_logits_in_training(name):
    """The head's gradient and its loss need less memory than the logits alone, which are there for who looks."""
    from pylayers.conversion.heads import Logits

    model, inputs = made(name, TINY)
    expected = model(**inputs)
    pylayers.convert(model)
    found = model(**inputs)
    assert isinstance(found.logits, Logits) and found.logits.computed is None
    assert found.logits.shape == expected.logits.shape and found.logits.dtype == expected.logits.dtype
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.logits.argmax(-1), expected.logits.argmax(-1))
    torch.testing.assert_close(found.logits + 0, expected.logits)


def test_late_logits_of_another_weight_raise():
    model, inputs = made("llama", TINY)
    pylayers.convert(model)
    output = model(**inputs)
    output.loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="logits are computed when they are first used"):
        output.logits.argmax(-1)


# ---- what survives


def test_optimizer_hooks_ties_and_modes_survive():
    model, inputs = made("qwen2", TINY)
    parameters = list(model.parameters())
    model.model.layers[1].eval()
    model.model.layers[0].mlp.gate_proj.weight.requires_grad_(False)
    calls = []
    model.model.norm.register_forward_hook(lambda *_: calls.append("norm"))
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    modes = [module.training for module in model.modules()]
    pylayers.convert(model)
    assert all(a is b for a, b in zip(parameters, model.parameters())) and modes == [module.training for module in model.modules()]
    assert model.lm_head.weight is model.model.embed_tokens.weight and not model.model.layers[0].mlp.gate_proj.weight.requires_grad
    assert not calls
    model(**inputs)
    assert calls == ["mlp", "norm"]
    assert isinstance(model.model.norm, type(model.model.norm).original) and type(model.model.norm).original.__name__ == "Qwen2RMSNorm"


def test_copies_and_pickles_stay_converted():
    model, inputs = made("llama", TINY)
    pylayers.convert(model)
    expected = model(**inputs).loss
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for one in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(one(**inputs).loss, expected)
        assert [type(a) for a in one.modules()] == [type(a) for a in model.modules()]


def test_save_pretrained_is_plain(tmp_path):
    from transformers import AutoModelForCausalLM

    model, inputs = made("llama", TINY)
    pylayers.convert(model)
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert not any(module.__module__.startswith("pylayers") for module in plain.modules())
    torch.testing.assert_close(plain(**inputs).loss, model(**inputs).loss)


def test_gradient_checkpointing():
    model, inputs = made("llama", TINY)
    _, expected = numbers(model, inputs)
    model.gradient_checkpointing_enable()
    pylayers.convert(model)
    _, found = numbers(model, inputs)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_lora():
    from peft import LoraConfig, get_peft_model

    model, inputs = made("llama", TINY)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj", "gate_proj"], lora_dropout=0.0)
    plain = get_peft_model(copy.deepcopy(model), config)
    pylayers.convert(model)
    ours = get_peft_model(model, config)
    ours.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for one in (ours, plain):
            for key, parameter in one.named_parameters():
                if "lora_B" in key:
                    parameter.fill_(0.01)
    _, expected = numbers(plain, inputs)
    _, found = numbers(ours, inputs)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_autocast():
    model, inputs = made("llama", TINY)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(**inputs)
        pylayers.convert(model)
        found = model(**inputs)
    assert found.logits.dtype == expected.logits.dtype and found.loss.dtype == expected.loss.dtype
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-2, atol=1e-2)


def test_modules_that_are_loaded_when_they_are_called(tmp_path):
    """A device_map with parts on the disk: accelerate holds their forwards, and their parameters are on the meta device between calls."""
    from accelerate import dispatch_model

    model, inputs = made("llama", TINY)
    model.eval()
    expected = model(**inputs).logits
    parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu",
             "lm_head": "disk"}  # fmt: skip
    dispatched = dispatch_model(copy.deepcopy(model), parts, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    report = pylayers.convert(dispatched)
    assert any(entry.name.startswith("model.layers.0.mlp") for entry in report.replaced)
    assert all(one.is_meta for one in dispatched.model.layers[1].parameters())
    torch.testing.assert_close(dispatched(**inputs).logits, expected)
    pylayers.revert(dispatched)
    assert torch.equal(dispatched(**inputs).logits, expected)


def test_convert_before_the_weights_are_there(tmp_path):
    from transformers import AutoModelForCausalLM

    model, inputs = made("llama", TINY)
    model.eval().save_pretrained(tmp_path)
    mapped = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    pylayers.convert(mapped)
    torch.testing.assert_close(mapped(**inputs).logits, model(**inputs).logits)
