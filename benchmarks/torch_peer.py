"""The peer: MoCo v2+ and SimCLR as a plain PyTorch training loop, with the networks, transforms, batch and optimiser of ssljax.

  python benchmarks/torch_peer.py [--variant=compiled+channels_last] [--field=value ...]

One process is one measurement and prints one JSON line; the fields and their defaults are those of `torch_networks.Settings` (the
digits preset). A variant joins any of these by "+": channels_last; compiled, reduce-overhead, max-autotune (modes of torch.compile
over transforms, networks and loss); graph (the whole step, optimiser included, as one CUDA graph). With --loader=N the transforms
run image by image in N worker processes of a DataLoader, as in most libraries.
"""

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

STARTED = time.time()

import numpy as np  # noqa: E402  (the start-up counts these imports)
import torch  # noqa: E402
import torch_transforms  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_networks import METHODS, Settings  # noqa: E402

MODES = {"compiled": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}


class Trainer:
    """One run: `step(index)` trains on the images of a batch, `step_views(views)` on views that come from elsewhere."""

    def __init__(self, s: Settings, images: np.ndarray, device: str, variant: set[str]) -> None:
        self.s, self.device = s, torch.device(device)
        self.cuda = self.device.type == "cuda"
        pixels = images.reshape(-1, images.shape[-1])
        stats = pixels.mean(0) / 255, pixels.std(0) / 255
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in stats)
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        self.format = torch.channels_last if "channels_last" in variant else torch.contiguous_format
        self.model = METHODS[s.method](s, images.shape[-1]).to(device).to(memory_format=self.format)  # type: ignore[call-overload]
        weights = [p for p in self.model.parameters() if p.requires_grad]
        # A tensor, so that neither a compiled nor a captured step has to be made again for another rate.
        self.rate, self.tau = torch.tensor(s.learning_rate, device=device), torch.tensor(s.tau_base, device=device)
        shared: dict[str, Any] = {"lr": self.rate, "weight_decay": s.weight_decay, "fused": True}
        self.optimizer: torch.optim.Optimizer
        if s.optimizer == "adam":
            self.optimizer = torch.optim.Adam(weights, capturable=self.cuda, **shared)
        else:
            self.optimizer = torch.optim.SGD(weights, momentum=s.momentum, **shared)
        self.transform = torch_transforms.SETS[s.transforms]
        self.steps_per_epoch = len(images) // s.batch_size
        self.count = 0
        self.loss_of_batch: Callable[..., tuple[Tensor, Tensor]] = self._loss_of_batch
        self.loss_of_views: Callable[..., tuple[Tensor, Tensor]] = self._loss_of_views
        for name in variant & set(MODES):
            self.loss_of_batch = torch.compile(self._loss_of_batch, mode=MODES[name])
            self.loss_of_views = torch.compile(self._loss_of_views, mode=MODES[name])
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captured = "graph" in variant
        self.index = torch.zeros(s.batch_size, dtype=torch.long, device=device)

    def views(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the images at `index`, drawn on the device."""
        images = self.images[index].float() / 255
        return self.transform(images, self.s.image_size), self.transform(images, self.s.image_size)

    def _loss_of_batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self._loss_of_views(*self.views(index))

    def _loss_of_views(self, *views: Tensor) -> tuple[Tensor, Tensor]:
        v1, v2 = (((v - self.mean) / self.std).contiguous(memory_format=self.format) for v in views)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.s.precision == "bfloat16")
        return self.model((v1, v2), autocast)

    def order(self) -> Iterator[Tensor]:
        """Batches of indices, epoch after epoch."""
        while True:
            shuffled = torch.randperm(len(self.images), device=self.device)
            yield from shuffled[: self.steps_per_epoch * self.s.batch_size].split(self.s.batch_size)

    def step(self, index: Tensor) -> Tensor:
        """Trains on a batch; returns the loss, which nobody waits for."""
        self._schedule()
        if not self.captured:
            return self._train(self.loss_of_batch(index))
        self.index.copy_(index)
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()
        return self.loss

    def step_views(self, *views: Tensor) -> Tensor:
        """The same with views that are there already, [n, channels, side, side] in [0, 1]."""
        self._schedule()
        return self._train(self.loss_of_views(*(v.to(self.device, non_blocking=True) for v in views)))

    def _train(self, result: tuple[Tensor, Tensor]) -> Tensor:
        loss, keys = result
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.update(keys, self.tau)
        return loss

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The whole step as a graph, recorded and not yet run."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # allocators and cuDNN settle before the capture
            for _ in range(3):
                self._train(self.loss_of_batch(self.index))
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self._train(self.loss_of_batch(self.index)).detach()
        return graph

    def _schedule(self) -> None:
        """Warm-up and half a cosine for the rate, half a cosine for the target's coefficient."""
        s, total = self.s, self.steps_per_epoch * self.s.epochs
        warmup = s.warmup_epochs * self.steps_per_epoch
        if self.count < warmup:
            rate = s.warmup_learning_rate + (s.learning_rate - s.warmup_learning_rate) * self.count / warmup
        else:
            cosine = (1 + math.cos(math.pi * min((self.count - warmup) / max(total - warmup, 1), 1))) / 2
            rate = s.min_learning_rate + (s.learning_rate - s.min_learning_rate) * cosine
        self.rate.fill_(rate)
        progress = min(self.count / max(total - 1, 1), 1)
        self.tau.fill_(s.tau_final - (s.tau_final - s.tau_base) * (1 + math.cos(math.pi * progress)) / 2)
        self.count += 1


class Views(torch.utils.data.Dataset):
    """Two views of one image at a time, on the CPU, as the workers of a DataLoader make them."""

    def __init__(self, s: Settings, images: Tensor) -> None:
        self.images, self.size = images, s.image_size
        self.transform: Callable[[Tensor], Tensor] = torchvision_set(s) or self._ours
        self.set = torch_transforms.SETS[s.transforms]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.transform(self.images[index])

    def _ours(self, image: Tensor) -> Tensor:
        return self.set(image[None].float() / 255, self.size)[0]


def torchvision_set(s: Settings) -> Callable[[Tensor], Tensor] | None:
    """torchvision's own transforms for the set that they can express, where torchvision imports."""
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError):  # a CPU build of torch beside another's torchvision raises the second
        return None
    if s.transforms != "cifar":
        return None
    return v2.Compose(
        [
            v2.RandomResizedCrop(s.image_size, scale=(0.08, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2)], p=0.8),
            v2.RandomApply([v2.ColorJitter(hue=0.1)], p=0.8),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def loaded(trainer: Trainer, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of views from worker processes, epoch after epoch."""
    loader = torch.utils.data.DataLoader(
        Views(trainer.s, trainer.images.cpu()),
        batch_size=trainer.s.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=trainer.cuda,
        persistent_workers=True,
        prefetch_factor=4,
    )
    while True:
        yield from loader


def flops(trainer: Trainer) -> int:
    """Floating-point operations of convolutions and matrix products in one step, forward and backward, counted in eager mode."""
    from torch.utils.flop_counter import FlopCounterMode

    index = next(trainer.order())
    with FlopCounterMode(display=False) as counter:
        trainer._loss_of_batch(index)[0].backward()
    return counter.get_total_flops()


def read_images(data: str) -> np.ndarray:
    """uint8 [n, side, side, channels]: 1,438 of scikit-learn's digits (as many as ssljax trains on), or an archive's."""
    if data == "digits":
        from sklearn.datasets import load_digits

        return np.round(load_digits().images[:1438, :, :, None] / 16 * 255).astype(np.uint8)
    with np.load(data) as archive:
        return archive["train_images"]


def measure(s: Settings, variant: str, workers: int, seconds: float, started: float) -> dict[str, Any]:
    """Trains for a while and times blocks of steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32 where there is one; nothing changes on a CPU
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(s, read_images(s.data), device, set(variant.split("+")) - {"eager"})
    source: Iterator[Any] = loaded(trainer, workers) if workers else ((index,) for index in trainer.order())
    step = trainer.step_views if workers else trainer.step

    def block(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            loss = step(*next(source))
        if trainer.cuda:
            torch.cuda.synchronize()
        if not math.isfinite(float(loss.detach())):
            raise SystemExit("the peer's loss is not finite")
        return (time.perf_counter() - start) / steps

    block(1)
    startup = time.time() - started
    block(4)
    count = max(1, round(seconds / 9 / block(4)))
    low, median, high = statistics.quantiles([block(count) for _ in range(9)], n=4)
    peak = (
        torch.cuda.max_memory_allocated() if trainer.cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "variant": variant,
        "loader workers": workers,
        "ms/step": median * 1e3,
        "ms low": low * 1e3,
        "ms high": high * 1e3,
        "images/s": s.batch_size / median,
        "peak MB": peak / 1e6,
        "start-up s": startup,
        "GFLOP/image": flops(trainer) / 1e9 / s.batch_size,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if trainer.cuda else "cpu",
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in Settings()._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--variant", default="eager")
    parser.add_argument("--loader", type=int, default=0, help="worker processes of a DataLoader (0: on the device)")
    parser.add_argument("--seconds", type=float, default=5, help="to time for")
    parser.add_argument("--started", type=float, default=STARTED, help="when the process was asked for, time.time()")
    args = vars(parser.parse_args())
    settings = Settings(**{name: args[name] for name in Settings._fields})
    print(json.dumps(measure(settings, args["variant"], args["loader"], args["seconds"], args["started"])))


if __name__ == "__main__":
    main()
