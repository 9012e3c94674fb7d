"""What to do with inputs of varying width? One tied weight, of which a narrow input uses the leading columns."""

import torch
from torch import nn

import pylayers
from pylayers import functional as F


class VaryingWidth(nn.Module):
    def __init__(self, most, out_features):
        super().__init__()
        self.linear = pylayers.Linear(most, out_features)

    def forward(self, x):
        return F.linear(x, self.linear.weight[:, : x.shape[-1]], self.linear.bias)  # a view with gaps: no copy


def main():
    torch.manual_seed(0)
    layer = VaryingWidth(16, 4)
    for width in (16, 9, 3):
        layer.zero_grad()
        x = torch.rand(5, width)
        padded = torch.nn.functional.pad(x, (0, 16 - width))
        same = torch.allclose(layer(x), layer.linear(padded), atol=1e-6)
        layer(x).sum().backward()
        touched = int((layer.linear.weight.grad.abs().sum(0) > 0).sum())
        print(f"width {width:2}: as if padded with zeros: {same}, columns with gradient: {touched}")
    print("Answer: slices of one Parameter tie the weights; each width trains the columns it uses.")


if __name__ == "__main__":
    main()
