"""An MLP with a shared layer is trained; its parameters and gradients are watched."""

import torch
from torch import nn

import pylayers


def main():
    torch.manual_seed(0)
    shared = pylayers.Linear(8, 8, activation="relu")
    net = nn.Sequential(pylayers.Linear(4, 8, activation="relu"), shared, shared, pylayers.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x = torch.rand(64, 4)
    wanted = x.sum(1, keepdim=True)
    losses = []
    for step in range(200):
        optimizer.zero_grad()
        loss = (net(x) - wanted).square().mean()
        loss.backward()
        if step % 50 == 0:
            print(f"step {step:3}: loss {loss.item():.4f}, shared weight {shared.weight.norm():.3f}, its gradient {shared.weight.grad.norm():.4f}")
        optimizer.step()
        losses.append(loss.item())
    print("still one tensor:", net[1].weight is net[2].weight, "| in parameters() once:", len(list(net.parameters())) == 6)
    print("loss fell:", losses[-1] < losses[0] / 10)
    print("Answer: the gradients of both uses add, and the one tensor moves by their sum.")


if __name__ == "__main__":
    main()
