"""A network of one's own for grey images of 8 x 8 pixels, trained on scikit-learn's digits.

    stingy bundle pack own_network.py:build --weights digits.pth --labels 0,1,2,3,4,5,6,7,8,9 \
        --channels 1 --size 8 --policy stingy:n=2
"""

import torch
from torch import nn


def build() -> nn.Module:
    """Build the network, untrained."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 16, 10)),
    )


def train() -> nn.Module:
    """Train it for a few seconds."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


if __name__ == "__main__":
    torch.save(train().state_dict(), "digits.pth")
