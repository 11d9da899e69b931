"""Public figures of accelerators and what follows from them for a step: time to compute, time to communicate, money."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from collectives import Collective

NODE = 8  # accelerators of a DGX or HGX machine, joined by NVLink


class Machine(NamedTuple):
    """An accelerator of a node of eight, an InfiniBand adapter each.

    Attributes:
      flops: of dense bfloat16 matrix products a second.
      memory: bytes on the device.
      bandwidth: of that memory, bytes/s.
      nvlink: bytes/s to the others of the node, one way.
      adapter: bytes/s to other nodes, one way.
      utilisation: share of `flops` that training a ResNet-50 reaches, see `published`.
      dollars: an hour.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    nvlink: float
    adapter: float
    utilisation: float
    dollars: float


# ResNet-50, mixed precision, MXNet 22.10 on a DGX A100 with 8 x 80 GB: 90 epochs in 1.14 hours
# (catalog.ngc.nvidia.com, "ResNet v1.5 for MXNet", Performance).
IMAGENET = 1_281_167
PUBLISHED_IMAGES = 90 * IMAGENET / (1.14 * 3600) / NODE  # a second and GPU
# Forward and backward of a 224 px image: 4.09 GMAC (torchvision's count for its ResNet-50), twice as much backward, 2 FLOP each.
RESNET50_FLOPS = 3 * 2 * 4.09e9


def published(machine_bandwidth: float, machine_flops: float) -> float:
    """Share of the peak that training a ResNet-50 reaches: the A100's published, and as much more as the memory is faster.

    Batch normalisation, ReLU and residual sums stream maps through memory, so faster products alone do not help.
    """
    return PUBLISHED_IMAGES * machine_bandwidth / 2.039e12 * RESNET50_FLOPS / machine_flops


# NVIDIA's data sheets of the SXM modules: dense BF16 (half of the figure "with sparsity"), HBM, NVLink 3 and 4 (600 and 900 GB/s
# both ways together). Adapters: HDR (200 Gb/s) in a DGX A100, NDR (400 Gb/s) in a DGX H100 and H200. Dollars: middle of the
# on-demand range of specialised providers, May 2026 (mercatus-ai.com/blog/cloud-gpu-pricing: 1.10-1.50, 2.50-3.50, 3.50-4.50).
MACHINES = tuple(
    Machine(name, flops, memory, bandwidth, nvlink, adapter, published(bandwidth, flops), dollars)
    for name, flops, memory, bandwidth, nvlink, adapter, dollars in (
        ("A100 80 GB", 312e12, 80e9, 2.039e12, 300e9, 25e9, 1.30),
        ("H100", 989e12, 80e9, 3.35e12, 450e9, 50e9, 3.00),
        ("H200", 989e12, 141e9, 4.8e12, 450e9, 50e9, 4.00),
    )
)

# What a small all-reduce takes within a node, and how much more each doubling of the nodes: assumptions. About 19 us were measured
# for 8 bytes between two A100s in two nodes (github.com/NVIDIA/nccl-tests/issues/150); NCCL's trees grow with the logarithm.
LATENCY, LATENCY_HOP = 20e-6, 7e-6
# Share of the wires' rate that large all-reduces reach: 46 to 48 of an adapter's 50 GB/s
# (github.com/NVIDIA/nccl-tests/issues/290), less for other sizes; an assumption.
WIRE = 0.8
# Model-flops utilisation that is often planned with.
PLANNED = 0.35


class Times(NamedTuple):
    """Seconds of a step that nothing overlaps.

    Attributes:
      compute: at the machine's utilisation.
      wires: at the wires' rate.
      latency: of as many collectives one after another.
    """

    compute: float
    wires: float
    latency: float

    @property
    def all(self) -> float:
        return sum(self)


def times(machine: Machine, flops: float, found: Sequence[Collective], iterations: int = 1, devices: int = 1) -> Times:
    """A step of a device.

    Args:
      machine: which.
      flops: of the device.
      found: its collectives.
      iterations: of loops that hold collectives.
      devices: in all; the collectives are over all of them.
    """
    # A ring through all devices of a node enters and leaves it by all eight adapters.
    rate = WIRE * (machine.nvlink if devices <= NODE else min(machine.nvlink, NODE * machine.adapter))
    often = [(each, iterations if each.looped else 1) for each in found]
    latency = LATENCY + LATENCY_HOP * math.log2(max(1.0, devices / NODE))
    return Times(
        flops / (machine.flops * machine.utilisation),
        sum(count * each.sent for each, count in often) / rate,
        sum(count for _, count in often) * latency,
    )
