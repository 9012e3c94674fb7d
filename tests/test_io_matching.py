import collections
import copy
import re

import pytest
import torch
from pylayers import io
from torch import nn


def test_load_matching():
    source = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3))
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    net = nn.Sequential(collections.OrderedDict(body=body, head=nn.Linear(5, 2)))
    before = copy.deepcopy(net.state_dict())
    identities = [id(one) for one in net.parameters()]
    report = io.load_matching(net, source.double().state_dict(), rename={"": "body."})
    assert report.taken == {"body.0.weight": "0.weight", "body.0.bias": "0.bias"}
    assert report.mismatched == {"body.2.weight": ("[5, 8]", "[3, 8]"), "body.2.bias": ("[5]", "[3]")}
    assert report.missing == ["head.weight", "head.bias"]
    assert report.unused == [f"3.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert torch.equal(net.body[0].weight, source[0].weight.float()) and [id(one) for one in net.parameters()] == identities
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before if name not in report.taken)
    text = repr(report)
    assert "taken: 2 of 6" in text and "body.2.bias: the net has [5], got [3]" in text and "body.0.bias (from 0.bias)" in text


def test_load_matching_renames():
    state = {"model.enc.0.w": torch.ones(1), "model.encoder": torch.ones(2), "model.enc.1.w": torch.ones(3)}
    net = nn.ParameterDict({"a": nn.Parameter(torch.zeros(1))})
    names = lambda rename: io.load_matching(net, {k: v for k, v in state.items()}, rename)  # noqa: E731
    for rename in ({"model.enc.0.w": "a"}, {re.compile(r"^model\.enc\.0\.w$"): "a"}, lambda name: "a" if "0" in name else None):
        net.a.data.zero_()
        assert names(rename).taken == {"a": "model.enc.0.w"} and net.a == 1
    assert names({"model.enc": "a"}).unused == list(state)  # whole parts: never the encoder
    assert io.load_matching(net, {"x.a": torch.ones(1)}, {"x": ""}).taken == {"a": "x.a"}
    assert io.load_matching(net, {"xa": torch.ones(1)}, {"x": ""}).unused == ["xa"]
    with pytest.raises(ValueError, match="'model.enc.0.w' and 'model.encoder' are both renamed to 'a'"):
        names(lambda name: "a")


def test_load_matching_ties_kinds_and_lazy():
    net = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
    net[1].weight = net[0].weight
    report = io.load_matching(net, {"0.weight": torch.ones(3, 2), "2.num_batches_tracked": torch.tensor(1.5)})
    assert net[1].weight.eq(1).all() and "1.weight" not in report.missing
    assert report.mismatched["2.num_batches_tracked"] == ("[] of dtype torch.int64", "[] of dtype torch.float32")
    assert io.load_matching(net, net).missing == []
    with pytest.raises(ValueError, match="load_matching: weight, bias of the net are not initialised"):
        io.load_matching(nn.LazyLinear(2), {})
    with pytest.raises(TypeError, match="state_dict must be a dict of tensors or a Module, got list"):
        io.load_matching(net, [])
