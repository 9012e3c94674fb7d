"""Ones against zeros from scanned digits: engineered edge filters under a linear classifier, and a learned net.

    python examples/ones_vs_zeros.py

The digits are those of scikit-learn (UCI's optical recognition of handwritten digits), 8×8 pixels each.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import pylayers

# A vertical and a horizontal edge, each 3×3.
EDGES = ([[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]])


def digits():
    """Images and labels (0.0 or 1.0) to learn from, and others to test on."""
    found = load_digits()
    wanted = found.target < 2
    images = torch.tensor(found.images[wanted] / 16, dtype=torch.float32)
    labels = torch.tensor(found.target[wanted], dtype=torch.float32)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    learn, test = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
    return images[learn], labels[learn], images[test], labels[test]


class EdgeFilters(nn.Module):
    """Mean response of each edge, rising and falling, in each of 3×3 parts of the image. The filters are constants: saved, never
    trained."""

    def __init__(self):
        super().__init__()
        edges = torch.tensor(EDGES, dtype=torch.float32)
        self.filters = pylayers.FixedLinear.from_weights(torch.cat([edges, -edges]).flatten(1), activation="relu")

    def forward(self, images):
        patches = images.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
        responses = self.filters(patches)
        return responses.unflatten(1, (3, -1)).unflatten(3, (3, -1)).mean((2, 4)).flatten(1)


def train(net, images, labels, steps=300):
    optimizer = torch.optim.Adam([one for one in net.parameters() if one.requires_grad], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(images).squeeze(1), labels).backward()
        optimizer.step()


def accuracy(net, images, labels):
    with torch.no_grad():
        return ((net(images).squeeze(1) > 0) == labels.bool()).double().mean().item()


def main():
    torch.manual_seed(0)
    learn, learn_labels, test, test_labels = digits()
    nets = {
        "engineered edge filters + linear classifier": nn.Sequential(EdgeFilters(), pylayers.LazyLinear(1)),
        "learned": nn.Sequential(nn.Flatten(), pylayers.LazyLinear(32, activation="relu"), pylayers.LazyLinear(1)),
    }
    print(f"{len(learn)} digits to learn from, {len(test)} held out")
    for name, net in nets.items():
        net(learn)
        train(net, learn, learn_labels)
        trained = sum(one.numel() for one in net.parameters())
        print(f"{name}: {accuracy(net, test, test_labels):.1%} of held-out digits right, {trained} parameters learned")


if __name__ == "__main__":
    main()
