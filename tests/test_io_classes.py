"""Every class of torch.nn that files may name, with other than the default arguments."""

import inspect

import pytest
import torch
from pylayers import io
from pylayers.io.classes import classes
from torch import nn

KNOWN = [cls for cls, _ in classes()]
# The arguments that have no default, by the beginning of the class's name; the longest counts.
REQUIRED = {
    "": (),
    "Linear": (2, 3),
    "NonDynamicallyQuantizableLinear": (2, 3),
    "Bilinear": (2, 3, 4),
    "LazyLinear": (3,),
    "Embedding": (3, 2),
    "LayerNorm": ((2, 3),),
    "GroupNorm": (2, 4),
    "RMSNorm": (3,),
    "LocalResponseNorm": (2,),
    "Conv": (1, 2, 3),
    "LazyConv": (2, 3),
    "BatchNorm": (3,),
    "InstanceNorm": (3,),
    "MaxPool": (2,),
    "AvgPool": (2,),
    "LPPool": (2, 3),
    "Adaptive": (2,),
    "MaxUnpool": (2,),
    "Reflection": (1,),
    "Replication": (1,),
    "ZeroPad": (1,),
    "ConstantPad": (1, 2.5),
    "CircularPad": (1,),
    "Fold": ((4, 5), (2, 2)),
    "Unfold": ((2, 1),),
    "Pixel": (2,),
    "ChannelShuffle": (2,),
    "Upsampling": (None, 2),
    "Threshold": (0.1, 2.0),
    "RNN": (2, 3),
    "LSTM": (2, 3),
    "GRU": (2, 3),
    "MultiheadAttention": (4, 2),
    "Transformer": (4, 2),
    "ParameterList": ([nn.Parameter(torch.ones(2))],),
    "ParameterDict": ({"a": nn.Parameter(torch.ones(2))},),
}
OTHER = {
    **{"bias": False, "affine": False, "elementwise_affine": False, "track_running_stats": False, "inplace": True},
    **{"padding_mode": "circular", "stride": 2, "eps": 0.01, "momentum": None, "dtype": torch.float64, "ceil_mode": True},
    **{"p": 0.25, "dim": 1, "num_layers": 2, "bidirectional": True, "kdim": 3, "norm_first": True, "alpha": 0.5, "mode": "bilinear"},
}


def variants(cls):
    """The class as it comes, and once for each argument that it has."""
    start = max((start for start in REQUIRED if cls.__name__.startswith(start)), key=len)
    given = set(inspect.signature(cls.__init__).parameters)
    if issubclass(cls, nn.RNNBase):
        given = {"bias", "num_layers", "bidirectional", "dtype"}
    if cls is nn.Unflatten:
        yield cls(1, (2, 3))
        return
    yield cls(*REQUIRED[start])
    for name in given & set(OTHER):
        if (name, "Transpose" in cls.__name__) != ("padding_mode", True):
            yield cls(*REQUIRED[start], **{name: OTHER[name]})


def plain(module):
    return {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple, type(None)))}


@pytest.mark.parametrize("cls", KNOWN, ids=lambda cls: cls.__name__)
def test_class(cls, tmp_path):
    net = nn.ModuleList(variants(cls))
    io.save_model(net, tmp_path / "net")
    again = io.load_model(tmp_path / "net")
    assert repr(again) == repr(net) and list(again.state_dict()) == list(net.state_dict())
    for ours, theirs in zip(again, net, strict=True):
        assert type(ours) is type(theirs) is cls
        assert repr(plain(ours)) == repr(plain(theirs))  # repr tells 1 from True and 1.0
        for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert one.dtype == other.dtype and (nn.parameter.is_lazy(other) or torch.equal(one, other))
