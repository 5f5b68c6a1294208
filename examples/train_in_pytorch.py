"""Train a PyTorch network on an exported distilled set of digits in ten lines, without distill_jax.

    python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/digits
    python -m experiments.export runs/digits png exports/digits
    PYTHONPATH=exports/digits python examples/train_in_pytorch.py

It needs PyTorch, and scikit-learn for the test images. Every export, in any format, contains ``use_in_pytorch.py`` next
to the images. Training on so few images needs augmentation: here a random affine map and a random brightness for each
image.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from use_in_pytorch import images, labels, normalise

torch.manual_seed(0)


def block(channels):
    return nn.Conv2d(channels, 32, 3, padding=1), nn.GroupNorm(32, 32), nn.ReLU(), nn.AvgPool2d(2)


net = nn.Sequential(*block(1), *block(32), nn.Flatten(), nn.Linear(128, 10))
optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-3)
for _ in range(300):
    maps = torch.eye(2, 3) + 0.1 * torch.randn(len(images), 2, 3)
    x = F.grid_sample(images, F.affine_grid(maps, images.shape, False), padding_mode="border", align_corners=False)
    optimiser.zero_grad()
    F.cross_entropy(net(x + torch.rand(len(x), 1, 1, 1) - 0.5), labels).backward()
    optimiser.step()

# How good is the network? Test it on the test part of digits, which distillation did not use.
_, x, _, y = train_test_split(
    *load_digits(return_X_y=True), test_size=0.25, random_state=0, stratify=load_digits().target
)
correct = net(normalise(torch.tensor(x / 16).float().reshape(-1, 1, 8, 8))).argmax(1) == torch.tensor(y)
print(f"{100 * correct.float().mean():.2f} % of {len(y)} test images")
