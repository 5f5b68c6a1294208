"""The inner step of ``step.py`` in eager PyTorch, as a straightforward class-by-class loop of IDC, for ``benchmark``.

For each class the sweep takes a real batch and the decoded synthetic images, augments both with one siamese
augmentation, computes the network gradient of each and the squared distance of the two over convolution weights, and
takes one SGD step on the stored images. Then the network is trained on real images with colour, crop and cutmix.
"""

# Only this module needs PyTorch, which is not a dependency, so pyright must not require it.
# pyright: reportMissingImports=false

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step import Size, Step


def step(size: Size, dtype: str = "float32") -> Step:
    """Return the sweep and the update, ready to be timed, on the GPU if PyTorch has one."""
    began = time.perf_counter()
    peer = Peer(size, dtype)
    peer.sweep()
    peer.update()
    peer.wait()

    def run(work: Callable[[], None], times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        peer.wait()
        return time.perf_counter() - began

    first = time.perf_counter() - began
    again = run(peer.sweep, 1) + run(peer.update, 1)
    # The extra time of the first round is PyTorch's counterpart of compilation: choosing and packing kernels.
    return Step(lambda n: run(peer.sweep, n), lambda n: run(peer.update, n), max(0.0, first - again))


class ConvNet(nn.Sequential):
    """Blocks of convolution, instance norm, ReLU and average pooling; a linear classifier."""

    def __init__(self, size: Size) -> None:
        side, _, channels = size.shape
        blocks: list[nn.Module] = []
        for _ in range(size.depth):
            norm = nn.GroupNorm(size.width, size.width)
            blocks += [nn.Conv2d(channels, size.width, 3, padding=1), norm, nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            channels, side = size.width, side // 2
        super().__init__(*blocks, nn.Flatten(), nn.Linear(channels * side * side, size.classes))


class Peer:
    """Images, network and optimisers of IDC in PyTorch."""

    def __init__(self, size: Size, dtype: str = "float32") -> None:
        torch.manual_seed(0)
        self.size = size
        self.narrow = dtype == "bfloat16"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            # jax uses TF32 by default too.
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        x, y = size.real()
        self.real = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.labels = torch.from_numpy(y).long().to(self.device)
        self.rows = [torch.from_numpy(np.flatnonzero(y == c)).to(self.device) for c in range(size.classes)]
        height, width, channels = size.shape
        images = torch.rand(size.classes * size.ipc, channels, height, width, device=self.device)
        self.images = images.requires_grad_()
        self.images_sgd = torch.optim.SGD([self.images], lr=1e-3, momentum=0.5)
        self.net = ConvNet(size).to(self.device)
        self.net_sgd = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def sweep(self) -> None:
        """Take one step on the images of each class, one class after the other."""
        size = self.size
        for c in range(size.classes):
            pick = self.rows[c][torch.randperm(len(self.rows[c]), device=self.device)[: size.batch]]
            real, syn = self._normalised(pick), decode(self._stored(c), size.factor)
            both = siamese(torch.cat([real, (syn - 0.5) / 0.25]))
            target = self._gradients(both[: len(real)], c, create_graph=False)
            ours = self._gradients(both[len(real) :], c, create_graph=True)
            pairs = zip(target, ours, strict=True)
            loss = sum(((a.detach() - b) ** 2).sum() for a, b in pairs if a.ndim == 4)
            self.images_sgd.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            self.images_sgd.step()

    def update(self) -> None:
        """Train the network on ``size.update`` real images."""
        size = self.size
        order = torch.randperm(len(self.real), device=self.device)
        for i in range(-(-size.update // size.batch)):
            pick = order[i * size.batch : (i + 1) * size.batch]
            x, y = crop(colour(self._normalised(pick), per_image=True), per_image=True), self.labels[pick]
            x, other, share = cutmix(x, 0.5)
            logits = self._logits(x)
            loss = F.cross_entropy(logits, y) * (1 - share) + F.cross_entropy(logits, y[other]) * share
            self.net_sgd.zero_grad()
            loss.backward()
            self.net_sgd.step()

    def wait(self) -> None:
        """Block until all queued work on the GPU has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _logits(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            return self.net(x).float()

    def _stored(self, c: int) -> Tensor:
        return self.images[c * self.size.ipc : (c + 1) * self.size.ipc]

    def _normalised(self, rows: Tensor) -> Tensor:
        return (self.real[rows].float() / 255 - 0.5) / 0.25

    def _gradients(self, x: Tensor, c: int, create_graph: bool) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(self._logits(x), torch.full((len(x),), c, device=self.device))
        return torch.autograd.grad(loss, list(self.net.parameters()), create_graph=create_graph)


def decode(images: Tensor, factor: int) -> Tensor:
    """Cut images [I, c, H, W] into factor x factor cells and upsample the cells: [I * factor**2, c, H, W]."""
    if factor == 1:
        return images
    side = images.shape[-1] // factor
    cells = images.unfold(2, side, side).unfold(3, side, side)
    cells = cells.permute(2, 3, 0, 1, 4, 5).reshape(-1, images.shape[1], side, side)
    return F.interpolate(cells, size=images.shape[-2:], mode="bilinear")


def siamese(x: Tensor) -> Tensor:
    """Apply colour, crop and cutout, with the same random numbers for all images."""
    x = crop(colour(x, per_image=False), per_image=False)
    side = x.shape[-1]
    top, left = (int(torch.randint(0, side + 1, ()) - side // 4) for _ in range(2))
    mask = torch.ones(side, side, device=x.device)
    mask[max(0, top) : max(0, top + side // 2), max(0, left) : max(0, left + side // 2)] = 0
    return x * mask


def colour(x: Tensor, per_image: bool) -> Tensor:
    """Change brightness, saturation and contrast at random; ``per_image``: independently for every image."""
    draw = torch.rand(3, len(x) if per_image else 1, 1, 1, 1, device=x.device)
    x = x + (draw[0] - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (draw[1] * 2) + grey
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - level) * (draw[2] + 0.5) + level


def crop(x: Tensor, per_image: bool) -> Tensor:
    """Shift images by up to an eighth of the side, padding with zeros; ``per_image``: every image by its own shift."""
    n, _, height, width = x.shape
    limit = int(height / 8 + 0.5)
    padded = F.pad(x, (limit, limit, limit, limit))
    if not per_image:
        i, j = (int(torch.randint(0, 2 * limit + 1, ())) for _ in range(2))
        return padded[:, :, i : i + height, j : j + width]
    shift = torch.randint(0, 2 * limit + 1, (2, n, 1, 1), device=x.device)
    rows = shift[0] + torch.arange(height, device=x.device)[None, :, None]
    columns = shift[1] + torch.arange(width, device=x.device)[None, None, :]
    return padded.permute(0, 2, 3, 1)[torch.arange(n, device=x.device)[:, None, None], rows, columns].permute(
        0, 3, 1, 2
    )


def cutmix(x: Tensor, probability: float) -> tuple[Tensor, Tensor, float]:
    """Return the mixed images, the index of each image's partner, and the share of pixels from the partner."""
    partner = torch.randperm(len(x), device=x.device)
    if torch.rand(()) >= probability:
        return x, partner, 0.0
    side = x.shape[-1]
    half = int(side * float(torch.rand(())) ** 0.5) // 2
    i, j = (int(torch.randint(0, side, ())) for _ in range(2))
    box = slice(max(0, i - half), min(side, i + half)), slice(max(0, j - half), min(side, j + half))
    x = x.clone()
    x[:, :, box[0], box[1]] = x[partner][:, :, box[0], box[1]]
    share = (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / side**2
    return x, partner, share
