"""The networks and losses of the comparison in PyTorch: VGG11, ResNet18 with the CIFAR stem, the projector, MoCo v2+ and SimCLR.

Layers have the names that they have in `ssljax.models`, so that weights can be carried over.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGG11 = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None)  # channels; None is a pool


class Settings(NamedTuple):
    """What both sides share, under the names of ssljax's flags."""

    data: str = "digits"  # or an .npz file with uint8 train_images [n, side, side, channels]
    method: str = "mocov2plus"
    backbone: str = "vgg11_bn"
    width: float = 0.25
    stem_padding: int = 1
    hidden_dim: int = 128
    output_dim: int = 64
    image_size: int = 16
    transforms: str = "mnist_first"
    batch_size: int = 128
    epochs: int = 60
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    warmup_epochs: float = 2.0
    warmup_learning_rate: float = 3e-5
    min_learning_rate: float = 0.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    temperature: float = 0.2
    queue_size: int = 1024
    tau_base: float = 0.99
    tau_final: float = 0.999
    precision: str = "float32"


class VGG(nn.Sequential):
    """Configuration A up to its last pool, which small images leave out, and a global average."""

    def __init__(self, channels: int, width: float, side: int, normalise: bool) -> None:
        layers: dict[str, nn.Module] = {}
        count = 0
        for wanted in VGG11:
            if wanted is None:
                if side > 1:
                    layers[f"pool{count}"], side = nn.MaxPool2d(2), side // 2
                continue
            out = max(1, round(wanted * width))
            layers[f"conv{count}"] = nn.Conv2d(channels, out, 3, padding=1)
            if normalise:
                layers[f"bn{count}"] = nn.BatchNorm2d(out)
            layers[f"relu{count}"] = nn.ReLU(inplace=True)
            channels, count = out, count + 1
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.dim = channels

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.projected = stride > 1 or channels != out
        if self.projected:
            self.downsample = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample_bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (self.downsample_bn(self.downsample(x)) if self.projected else x), inplace=True)


class ResNet18(nn.Module):
    """torchvision's, with the CIFAR stem: 3x3, stride 1, no pool."""

    def __init__(self, channels: int, width: float, stem_padding: int) -> None:
        super().__init__()
        widths = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, stem_padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential()
        before = widths[0]
        for stage, out in enumerate(widths):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                self.blocks.add_module(f"layer{stage + 1}_{block}", BasicBlock(before, out, stride))
                before = out
        self.dim = before

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True)).mean((2, 3))


class Network(nn.Module):
    """Backbone and projector; views pass one after another where they have batch statistics, together where they have none."""

    def __init__(self, s: Settings, channels: int) -> None:
        super().__init__()
        normalise = s.backbone != "vgg11"
        if s.backbone == "resnet18":
            self.backbone: Any = ResNet18(channels, s.width, s.stem_padding)
        elif s.backbone in ("vgg11", "vgg11_bn"):
            self.backbone = VGG(channels, s.width, s.image_size, normalise)
        else:
            raise SystemExit(f"--backbone: the peer has vgg11, vgg11_bn and resnet18, given '{s.backbone}'")
        self.linear1 = nn.Linear(self.backbone.dim, s.hidden_dim)
        self.linear2 = nn.Linear(s.hidden_dim, s.output_dim)
        self.together = not normalise
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.together:
            first, second = self._project(torch.cat(views)).chunk(2)
            return first, second
        return self._project(views[0]), self._project(views[1])

    def _project(self, x: Tensor) -> Tensor:
        return F.normalize(self.linear2(F.relu(self.linear1(self.backbone(x)))).float())


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross entropy of the positive against the rows of a queue; all unit vectors."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Each of 2N unit vectors picks its partner among the 2N - 1 others."""
    z, n = torch.cat([z1, z2]), len(z1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


class MoCo(nn.Module):
    """MoCo v2+: two InfoNCE terms, a queue a view, and an EMA target with batch statistics of its own."""

    queue: Tensor
    slots: Tensor

    def __init__(self, s: Settings, channels: int) -> None:
        super().__init__()
        self.online = Network(s, channels)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.temperature, self.size = s.temperature, s.queue_size
        self.register_buffer("queue", F.normalize(torch.randn(2, s.queue_size, s.output_dim), dim=-1))
        self.register_buffer("slots", torch.arange(s.batch_size))

    def forward(self, views: tuple[Tensor, Tensor], autocast: Any) -> tuple[Tensor, Tensor]:
        """The loss and the keys [2, batch, dim]."""
        with autocast:
            q1, q2 = self.online(views)
            with torch.no_grad():
                k1, k2 = self.target(views)
        terms = info_nce(q1, k2, self.queue[1], self.temperature) + info_nce(q2, k1, self.queue[0], self.temperature)
        return terms / 2, torch.stack([k1, k2])

    @torch.no_grad()
    def update(self, keys: Tensor, tau: Tensor) -> None:
        """Enqueues the keys and moves the target; every number stays on the device."""
        self.queue.index_copy_(1, self.slots, keys)
        self.slots.add_(len(self.slots)).remainder_(self.size)
        target: list[Tensor] = list(self.target.parameters())
        online: list[Tensor] = list(self.online.parameters())
        torch._foreach_mul_(target, tau)
        torch._foreach_add_(target, list(torch._foreach_mul(online, 1 - tau)))


class SimCLR(nn.Module):
    """SimCLR: NT-Xent over the views of a batch."""

    def __init__(self, s: Settings, channels: int) -> None:
        super().__init__()
        self.online = Network(s, channels)
        self.temperature = s.temperature

    def forward(self, views: tuple[Tensor, Tensor], autocast: Any) -> tuple[Tensor, Tensor]:
        with autocast:
            z1, z2 = self.online(views)
        return nt_xent(z1, z2, self.temperature), z1.detach()

    def update(self, keys: Tensor, tau: Tensor) -> None:
        pass


METHODS: dict[str, Callable[[Settings, int], nn.Module]] = {"mocov2plus": MoCo, "simclr": SimCLR}
