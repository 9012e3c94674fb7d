"""Parameters: by index, by name, all at once, by pattern; written directly; tied."""

import copy

import torch
from torch import nn

import pylayers
from pylayers.blocks import parameters_matching


def main():
    torch.manual_seed(0)
    net = nn.Sequential(pylayers.Linear(4, 8, activation="relu"), pylayers.Linear(8, 1))
    x = torch.rand(2, 4)

    print("by index:", net[1].state_dict().keys() == {"weight", "bias"}, tuple(net[1].weight.shape))
    print("by name:", tuple(net.get_parameter("0.bias").shape))
    print("all at once:", [(name, tuple(one.shape)) for name, one in net.named_parameters()])
    print("by pattern:", [name for name, _ in parameters_matching(net, r"\.weight$")])
    print("gradient before backward:", net[0].weight.grad)

    with torch.no_grad():
        net[1].weight.fill_(0)
        net[1].bias.fill_(3)
    print("direct writes are seen:", net(x).flatten().tolist())

    shared = pylayers.Linear(8, 8, activation="relu")
    tied = nn.Sequential(pylayers.Linear(4, 8, activation="relu"), shared, shared, pylayers.Linear(8, 1))
    tied(x).sum().backward()
    apart = nn.Sequential(tied[0], copy.deepcopy(shared), copy.deepcopy(shared), tied[3])
    apart.zero_grad()
    apart(x).sum().backward()
    print("one tensor object:", tied[1].weight is tied[2].weight)
    both = apart[1].weight.grad + apart[2].weight.grad
    print("its gradient is the sum of two:", torch.allclose(shared.weight.grad, both, atol=1e-6))
    for name, other in (("deepcopy", copy.deepcopy(tied)), (".to(float64)", copy.deepcopy(tied).to(torch.float64))):
        print(f"the tie survives {name}:", other[1].weight is other[2].weight)

    class LanguageModel(nn.Module):
        """An embedding tied to the output head."""

        def __init__(self, vocab=50, dim=16):
            super().__init__()
            self.embedding = nn.Embedding(vocab, dim)
            self.head = pylayers.Linear(dim, vocab, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    model = LanguageModel()
    model(torch.arange(5)).sum().backward()
    print("embedding tied to the head:", len(list(model.parameters())), "parameter, gradient", tuple(model.head.weight.grad.shape))


if __name__ == "__main__":
    main()
