"""Builds networks from PyTorch checkpoints of *STR* (Kusupati et al., ICML 2020, arXiv 2002.03231).

This module knows the names that the paper's program gave the tensors of its ResNets (they are torchvision's, so dense
ResNets of torchvision are read, too) and of its MobileNetV1, and how our networks call the same layers. A convolution
whose weight W is thresholded has a scalar `sparseThreshold` s beside it: at inference the weight is
sign(W) max(|W| - sigmoid(s), 0). A checkpoint that the program has converted to dense has no thresholds, and zeros in
its weights; checkpoints of its other techniques have neither.

The names are taken from the published code. None of the published checkpoints was at hand for a test.
"""

import re

import keras
import numpy as np

from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from sparsity_tf.checks import check_choice, check_integers
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.type_names import Shape

# What the layers of a checkpoint can become; see `build_model`.
FORMS = ("auto", "soft_threshold", "masked", "dense")
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# Bottlenecks or not, and the number of blocks of each stage -> depth.
_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_MOBILENET_BLOCKS = 13


def network_kind(checkpoint: Checkpoint) -> str | None:
    """Tells from the names in a checkpoint which network of STR's program it is: "resnet", "mobilenet" or `None`.

    Args:
        checkpoint: A `Checkpoint`.
    """
    if _find(checkpoint, "layer1.0.conv1.weight") and _find(checkpoint, "conv1.weight"):
        return "resnet"
    if _find(checkpoint, "model.1.3.weight") and _find(checkpoint, "model.0.0.weight"):
        return "mobilenet"
    return None


def build_model(checkpoint: Checkpoint, form: str = "auto", input_shape: Shape = (224, 224, 3)) -> keras.Model:
    """Builds the network that a checkpoint describes, and loads its weights and statistics.

    Args:
        checkpoint: A `Checkpoint` of a ResNet or MobileNetV1 with the names of STR's program.
        form: What becomes of the weights. `"soft_threshold"`: layers of STR with the file's raw weights and thresholds.
            `"masked"`: masked layers with the weights of inference, whose masks are the entries that are not zero.
            `"dense"`: plain layers with the weights of inference, zeros included. `"auto"`: `"soft_threshold"` for the
            layers that have a threshold, and plain layers otherwise.
        input_shape: Shape of one image, channels last. (A checkpoint does not tell it.)

    Returns:
        A Keras model of `models.resnet` (variant `"str"`) or `models.mobilenet_v1`, not compiled.

    Raises:
        ValueError: `form` is none of those.
        CheckpointError: The checkpoint is neither network, lacks a tensor, has one of a wrong shape or one that the
            network has no place for; or `form="soft_threshold"`, and the checkpoint has no thresholds.
    """
    check_choice("form", form, FORMS)
    check_integers("input_shape", input_shape, 1, length=3, unknown=True)
    kind = network_kind(checkpoint)
    if kind is None:
        raise CheckpointError(
            f"Checkpoint '{checkpoint.path}' is no network of STR: it has neither conv1.weight and "
            "layer1.0.conv1.weight (ResNet) nor model.0.0.weight and model.1.3.weight (MobileNetV1)"
        )
    return _Network(checkpoint, kind).load(form, tuple(input_shape))


def _find(checkpoint, key):
    """The names of the tensors that a file calls `key`, with or without the prefix of torch's wrapper."""
    return checkpoint.find(key)


class _Network:
    """Takes the tensors of one network out of a checkpoint, and counts which were taken."""

    def __init__(self, checkpoint, kind):
        self.checkpoint, self.kind = checkpoint, kind
        self.taken = set()

    def load(self, form, input_shape):
        from sparsity_tf import models

        depth = self._depth() if self.kind == "resnet" else None
        scopes = self._resnet_scopes() if depth else _mobilenet_scopes()
        kernels = {ours: self._kernel(ours, conv) for ours, (conv, _) in scopes.items()}
        raw = {ours: self._threshold(conv) for ours, (conv, _) in scopes.items()}
        raw = {ours: threshold for ours, threshold in raw.items() if threshold is not None}
        if form == "soft_threshold" and not raw:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has no sparseThreshold, so it is not in the form of STR: take "
                "`form='dense'` or `form='masked'`"
            )
        bias = self._optional(f"{scopes['classifier'][0]}.bias")
        technique = {"auto": "soft_threshold" if raw else None, "dense": None}.get(form, form)
        options = {
            "input_shape": input_shape,
            "num_classes": kernels["classifier"].shape[-1],
            "classifier": "conv" if bias is None else "dense",
            "technique": technique,
            "where": list(raw) if technique == "soft_threshold" else None,
        }
        filters = kernels["stem"].shape[-1]
        if depth:
            model = models.resnet(depth, width=filters / 64, variant="str", **options)
        else:
            model = models.mobilenet_v1(width=filters / 32, **options)
        sparse = {weight.layer.name: weight for weight in get_sparse_weights(model)}
        for ours, (_, norm) in scopes.items():
            layer = model.get_layer(ours)
            kernel = kernels[ours]
            if technique != "soft_threshold":
                kernel = _value(kernel, raw.get(ours))
            values = {"kernel": kernel}
            if technique == "soft_threshold" and ours in raw:
                values["raw_threshold"] = raw[ours]
            if ours == "classifier":
                values["kernel"] = kernel.reshape(layer.kernel.shape) if _same_matrix(kernel, layer) else kernel
                values |= {} if bias is None else {"bias": bias}
            self._assign(layer, values)
            if technique == "masked":
                sparse[ours].assign_mask(kernel.reshape(sparse[ours].shape) != 0)
            if norm is not None:
                self._load_batch_norm(model.get_layer(f"{ours}_bn"), norm)
        self._check_all_taken(scopes)
        return model

    def _resnet_scopes(self):
        """Dict from our layers with a kernel to (convolution, batch normalisation) in the file; STR's order."""
        scopes = {"stem": ("conv1", "bn1")}
        for stage, blocks in enumerate(self._blocks(), 1):
            for block in range(blocks):
                ours, theirs = f"stage{stage}_block{block + 1}", f"layer{stage}.{block}"
                for conv in (1, 2, 3) if self._bottleneck() else (1, 2):
                    scopes[f"{ours}_conv{conv}"] = (f"{theirs}.conv{conv}", f"{theirs}.bn{conv}")
                if _find(self.checkpoint, f"{theirs}.downsample.0.weight"):
                    scopes[f"{ours}_projection"] = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
        return scopes | {"classifier": ("fc", None)}

    def _bottleneck(self):
        return bool(_find(self.checkpoint, "layer1.0.conv3.weight"))

    def _blocks(self):
        names = [alias for name in self.checkpoint.names() for alias in self.checkpoint.aliases(name)]
        found = [re.fullmatch(r"layer([1-4])\.(\d{1,3})\.conv1\.weight", name) for name in names]
        found = {(int(match[1]), int(match[2])) for match in found if match}
        return tuple(len([1 for stage, _ in found if stage == number]) for number in range(1, 5))

    def _depth(self):
        blocks = self._blocks()
        depth = _DEPTHS.get((self._bottleneck(), blocks))
        if depth is None:
            raise CheckpointError(f"Checkpoint '{self.checkpoint.path}' has {blocks} blocks: no known ResNet")
        return depth

    def _optional(self, key):
        """The tensor that the file calls `key`, or `None`. If the file holds it twice, both must be equal."""
        names = _find(self.checkpoint, key)
        if not names:
            return None
        self.taken.update(names)
        value = self.checkpoint.tensor(names[0])
        for other in names[1:]:
            if not np.array_equal(value, self.checkpoint.tensor(other)):
                raise CheckpointError(
                    f"Checkpoint '{self.checkpoint.path}' has two different tensors {names[0]} and {other}"
                )
        return value

    def _tensor(self, key):
        value = self._optional(key)
        if value is None:
            raise CheckpointError(f"Checkpoint '{self.checkpoint.path}' has no tensor {key}")
        return value

    def _kernel(self, ours, conv):
        """A weight with its axes in Keras's order."""
        value = self._tensor(f"{conv}.weight").astype("float32")
        if value.ndim == 2 and ours == "classifier":
            value = value[:, :, None, None]
        if value.ndim != 4:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}': {conv}.weight should have 4 axes. Received: shape {value.shape}"
            )
        # PyTorch: filters, inputs of a filter, height, width.
        return value.transpose((2, 3, 0, 1) if "depthwise" in ours else (2, 3, 1, 0))

    def _threshold(self, conv):
        """The threshold s of a layer, a scalar, or `None`."""
        value = self._optional(f"{conv}.sparseThreshold")
        if value is not None and value.size != 1:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}': {conv}.sparseThreshold should be one number a layer. "
                f"Received: shape {value.shape}"
            )
        return None if value is None else value.astype("float32").reshape(())

    def _load_batch_norm(self, layer, norm):
        values = {ours: self._tensor(f"{norm}.{theirs}") for ours, theirs in _BATCH_NORM.items() if "moving" in ours}
        for ours, constant in (("gamma", 1.0), ("beta", 0.0)):
            # The program can leave both out.
            value = self._optional(f"{norm}.{_BATCH_NORM[ours]}")
            values[ours] = np.full_like(values["moving_mean"], constant) if value is None else value
        self._optional(f"{norm}.num_batches_tracked")
        self._assign(layer, values)

    def _assign(self, layer, values):
        variables = {variable.name: variable for variable in layer.variables}
        for name, value in values.items():
            if tuple(variables[name].shape) != value.shape:
                raise CheckpointError(
                    f"Checkpoint '{self.checkpoint.path}': {layer.name}/{name} should have the shape "
                    f"{tuple(variables[name].shape)} (in Keras's order of axes), and has {value.shape}"
                )
            variables[name].assign(value)

    def _check_all_taken(self, scopes):
        """Refuses tensors without a place, except for what old files hold: the weights of inference, once more.

        Only layers with a threshold have these. Beside other weights, a tensor of their size may be a mask or the
        scores of another technique, without which the network is another one.
        """
        own = {
            conv: np.prod(self.checkpoint.shape(_find(self.checkpoint, f"{conv}.weight")[0]))
            for conv, _ in scopes.values()
            if _find(self.checkpoint, f"{conv}.sparseThreshold")
        }
        left = []
        for name in set(self.checkpoint.names()) - self.taken:
            copies = [alias.rpartition(".")[0] for alias in self.checkpoint.aliases(name)]
            if not any(np.prod(self.checkpoint.shape(name)) == own.get(conv) for conv in copies):
                left.append(name)
        if left:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has tensors that a {self.kind} of STR does not have: "
                f"{', '.join(sorted(left)[:6])}"
            )


def _mobilenet_scopes():
    scopes = {"stem": ("model.0.0", "model.0.1")}
    for block in range(1, _MOBILENET_BLOCKS + 1):
        scopes[f"block{block}_depthwise"] = (f"model.{block}.0", f"model.{block}.1")
        scopes[f"block{block}_pointwise"] = (f"model.{block}.3", f"model.{block}.4")
    return scopes | {"classifier": ("fc", None)}


def _value(kernel, raw):
    """The weight at inference, exactly zero where |W| <= sigmoid(s)."""
    if raw is None:
        return kernel
    with np.errstate(over="ignore"):
        threshold = np.float32(1) / (np.float32(1) + np.exp(-raw))
    return np.sign(kernel) * np.maximum(np.abs(kernel) - threshold, np.float32(0))


def _same_matrix(kernel, layer):
    """Whether the kernel of a 1x1 convolution is the matrix of a dense layer."""
    return len(layer.kernel.shape) == 2 and kernel.shape[:2] == (1, 1) and kernel.shape[2:] == tuple(layer.kernel.shape)
