"""STR's three networks in PyTorch, as its paper's program defines and names them, for tests of the importer.

Written from the description of the networks. Tests import this module only if torch is there.
"""

import torch
from torch import nn

# Filters and strides of MobileNetV1's thirteen blocks, as fractions of 32 filters.
BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))


class STRConv(nn.Conv2d):
    """A convolution whose weights have a soft threshold."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, bias=False, **kwargs)
        self.sparseThreshold = nn.Parameter(torch.full((1, 1), -3.0))

    def forward(self, x):
        w = torch.sign(self.weight) * torch.relu(torch.abs(self.weight) - torch.sigmoid(self.sparseThreshold))
        return nn.functional.conv2d(x, w, None, self.stride, self.padding, self.dilation, self.groups)


class DenseConv(nn.Conv2d):
    """The convolution of the networks that the program has converted to dense."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, bias=False, **kwargs)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, conv, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride=stride, padding=1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, padding=1), nn.BatchNorm2d(planes)
        self.downsample = shortcut(conv, inputs, planes, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, conv, inputs, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride=stride, padding=1), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(conv, inputs, 4 * planes, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def shortcut(conv, inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, block, blocks, conv=STRConv, width=64, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, stride=2, padding=3), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, count in enumerate(blocks):
            planes, layers = width * 2**stage, []
            for index in range(count):
                layers.append(block(conv, inputs, planes, 2 if stage and index == 0 else 1))
                inputs = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = conv(inputs, num_classes, 1)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


class MobileNetV1(nn.Module):
    def __init__(self, conv=STRConv, width=32, num_classes=10):
        super().__init__()
        layers = [nn.Sequential(conv(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())]
        inputs = width
        for factor, stride in BLOCKS:
            outputs = factor * width
            layers.append(
                nn.Sequential(
                    conv(inputs, inputs, 3, stride=stride, padding=1, groups=inputs),
                    nn.BatchNorm2d(inputs),
                    nn.ReLU(),
                    conv(inputs, outputs, 1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                )
            )
            inputs = outputs
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.fc = conv(inputs, num_classes, 1)

    def forward(self, x):
        return self.fc(self.model(x)).flatten(1)


def build(name, conv=STRConv, width=8, num_classes=10, seed=0):
    """A network with random weights, statistics and thresholds, ready for inference.

    Args:
        name: "resnet_18", "resnet_50" or "mobilenet_v1".
        conv: `STRConv` or `DenseConv`.
        width: Filters of the first convolution.
        num_classes: Number of outputs.
        seed: Seed of all numbers.
    """
    make = {
        "resnet_18": lambda: ResNet(Basic, (2, 2, 2, 2), conv, width, num_classes),
        "resnet_50": lambda: ResNet(Bottleneck, (3, 4, 6, 3), conv, width, num_classes),
        "mobilenet_v1": lambda: MobileNetV1(conv, width, num_classes),
    }
    torch.manual_seed(seed)
    network = make[name]()
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith("sparseThreshold"):
                tensor.uniform_(-4.5, -2.5)
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif key.endswith("running_mean") or (key.endswith("bias") and tensor.ndim == 1):
                tensor.normal_(std=0.2)
            elif key.endswith("weight") and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("weight"):
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
    return network.eval()


def to_dense_state(network):
    """The state dict that the program writes when it converts a network to dense: thresholded weights."""
    state, dense = network.state_dict(), {}
    for key, tensor in state.items():
        if key.endswith("sparseThreshold"):
            continue
        threshold = state.get(key.replace("weight", "sparseThreshold")) if key.endswith("weight") else None
        if threshold is not None:
            tensor = torch.sign(tensor) * torch.relu(torch.abs(tensor) - torch.sigmoid(threshold))
        dense[key] = tensor
    return dense
