"""The networks of `convnets.py` in eager PyTorch: the sub-process of `convnets.py`, in its own environment.

It reads one request a line, `{"arm": ["dense" or "masked", "nchw" or "channels_last"], "steps": n}`, and answers with
the seconds of a training step, so that the parent process can interleave these arms with its own. The first line of its
output says the version of PyTorch and the number of parameters of the network. "masked" uses `torch.nn.utils.prune` on
every kernel.
"""

import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune


class WideBlock(nn.Module):
    """Pre-activation block. If the number of channels changes, the 1x1 shortcut reads the activated input."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(filters)
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.projection = nn.Conv2d(inputs, filters, 1, stride, bias=False) if inputs != filters else None

    def forward(self, x):
        activated = functional.relu(self.bn1(x))
        residual = functional.relu(self.bn2(self.conv1(activated)))
        residual = self.conv2(functional.dropout(residual, 0.3, self.training))
        return residual + (x if self.projection is None else self.projection(activated))


def wide_resnet_28_2():
    blocks, inputs = [], 16
    for stage, filters in enumerate((32, 64, 128)):
        for index in range(4):
            blocks.append(WideBlock(inputs, filters, 2 if stage and not index else 1))
            inputs = filters
    head = [nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), *blocks, *head)


class Bottleneck(nn.Module):
    """Three convolutions: 1x1, 3x3 with the stride, and 1x1 with four times the filters."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        outputs = 4 * filters
        self.residual = nn.Sequential(
            *self._conv(inputs, filters, 1, 1),
            nn.ReLU(),
            *self._conv(filters, filters, 3, stride),
            nn.ReLU(),
            *self._conv(filters, outputs, 1, 1),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(*self._conv(inputs, outputs, 1, stride)) if changes else nn.Identity()

    @staticmethod
    def _conv(inputs, filters, size, stride):
        return nn.Conv2d(inputs, filters, size, stride, size // 2, bias=False), nn.BatchNorm2d(filters)

    def forward(self, x):
        return functional.relu(self.residual(x) + self.shortcut(x))


def resnet_50():
    blocks, inputs = [], 64
    for stage, (filters, repeats) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for index in range(repeats):
            blocks.append(Bottleneck(inputs, filters, 2 if stage and not index else 1))
            inputs = 4 * filters
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


NETS = {"wrn-28-2": (wide_resnet_28_2, 10), "resnet-50": (resnet_50, 1000)}


class Arm:
    """A network that trains on one batch."""

    def __init__(self, net, kind, layout, batch, size):
        build, classes = NETS[net]
        torch.manual_seed(0)
        self.model = build().train()
        if kind == "masked":
            for module in self.model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    prune.random_unstructured(module, "weight", 0.9)
        self.x, self.y = torch.randn(batch, 3, size, size), torch.randint(0, classes, (batch,))
        if layout == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        self.run(1)

    def run(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(self.x), self.y)
            loss.backward()
            self.optimizer.step()
        loss.item()
        return (time.perf_counter() - start) / steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", choices=list(NETS), required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args()
    parameters = sum(parameter.numel() for parameter in NETS[options.net][0]().parameters())
    print(json.dumps({"version": torch.__version__, "parameters": parameters}), flush=True)
    arms = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = tuple(request["arm"])
        if key not in arms:
            arms[key] = Arm(options.net, *key, options.batch, options.size)
        print(json.dumps(arms[key].run(request["steps"])), flush=True)


if __name__ == "__main__":
    main()
