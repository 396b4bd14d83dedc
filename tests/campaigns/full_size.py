"""Writes checkpoints with the names and shapes that *State of Sparsity* and *STR* published, at full size.

The names are spelt out here from the descriptions of the published programs, and not taken from the readers that are
tested with them. All numbers are random. The share of zeros is exact in each weight: `Written.nonzeros` counts what is
left, and knows nothing of the package.
"""

import dataclasses
import os
import tarfile

import numpy as np

VOCABULARY = 33_288
# Prefixes of names in the two programs of State of Sparsity.
_TRANSFORMER, _RESNET = "sparse_transformer", "resnet_model"
# A log alpha of live and dead entries, on both sides of the thresholds 0.5 to 3 and of the gates' limits of 2.398.
_VD_LIVE, _VD_DEAD, _L0_LIVE, _L0_DEAD = -3.0, 6.0, 1.0, -4.0


@dataclasses.dataclass
class Written:
    """A checkpoint on this disk.

    Attributes:
        path: The `.tar` or `.pth`.
        size: Number of weights in kernels and embedding.
        nonzeros: How many of these are not zero at inference.
    """

    path: str
    size: int
    nonzeros: int


class _Tensors(dict):
    """Tensors by name. `weight` adds one that a technique makes sparse, with the variables of the technique."""

    def __init__(self, technique, sparsity, seed):
        super().__init__()
        self.technique, self.sparsity, self.random = technique, sparsity, np.random.default_rng(seed)
        self.size = self.nonzeros = 0

    def normal(self, *shape):
        numbers = self.random.standard_normal(shape, dtype=np.float32)
        numbers[numbers == 0] = 1  # of 25 million float32 numbers a few are exactly 0
        return numbers * np.float32(np.prod(shape[:-1]) ** -0.5)

    def weight(self, kernel, second, shape, slots, technique=""):
        """Adds a weight, the technique's variable beside it, and slots of an optimizer.

        Args:
            kernel: Name of the weight.
            second: Dict from technique to the name of its variable.
            shape: Shape of the weight.
            slots: Names of the slots.
            technique: "" for the technique of all weights; `None` for a dense weight.
        """
        technique = self.technique if technique == "" else technique
        value, size = self.normal(*shape), int(np.prod(shape))
        left = size if technique is None else int(size * (1 - self.sparsity))
        live = np.zeros(size, bool)
        live[self.random.permutation(size)[:left]] = True
        live = live.reshape(shape)
        if technique == "masked":
            self[second["masked"]] = live.astype(np.float32)
        elif technique == "vd":
            log_alpha = np.where(live, np.float32(_VD_LIVE), np.float32(_VD_DEAD))
            self[second["vd"]] = log_alpha + np.log(np.square(value) + np.float32(1e-8))
        elif technique == "l0":
            self[second["l0"]] = np.where(live, np.float32(_L0_LIVE), np.float32(_L0_DEAD))
        self[kernel] = value
        for slot in slots:
            self[slot] = np.zeros(shape, np.float32)
        self.size, self.nonzeros = self.size + size, self.nonzeros + left


def transformer(technique, sparsity, seed=0):
    """The tensors of the base Transformer: 6 layers of 512 units, 33,288 symbols, 61,083,648 sparse weights.

    Args:
        technique: "masked", "vd", "l0", or `None` for tensor2tensor's own dense Transformer.
        sparsity: Share of zeros in each weight.
        seed: Seed of all numbers.
    """
    tensors = _Tensors(technique, sparsity, seed)
    shared = f"{_TRANSFORMER}/symbol_modality_{VOCABULARY}_512/shared"
    aux = f"{shared}/weights_0_aux"
    adam = lambda name: [f"training/{name}/{slot}" for slot in ("Adam", "Adam_1")]  # noqa: E731
    second = {"masked": f"{shared}/mask", "vd": aux, "l0": aux}
    tensors.weight(f"{shared}/weights_0", second, (VOCABULARY, 512), adam(f"{shared}/weights_0"))
    if technique == "masked":
        tensors[f"{shared}/threshold"] = np.float32(0.1)

    def dense(scope, shape, bias=False):
        inside = f"{scope}/fully_connected" if technique == "masked" else scope
        kernel, offset = ("weights", "biases") if technique == "masked" else ("kernel", "bias")
        second = {"masked": f"{inside}/mask", "vd": f"{inside}/log_sigma2", "l0": f"{inside}/log_alpha"}
        tensors.weight(f"{inside}/{kernel}", second, shape, adam(f"{inside}/{kernel}"))
        if technique == "masked":
            tensors[f"{inside}/threshold"] = np.float32(0.1)
        if bias:
            tensors[f"{inside}/{offset}"] = tensors.normal(shape[1], 1)[:, 0]

    def norm(scope):
        tensors[f"{scope}/layer_prepostprocess/layer_norm/layer_norm_scale"] = np.ones(512, np.float32)
        tensors[f"{scope}/layer_prepostprocess/layer_norm/layer_norm_bias"] = np.zeros(512, np.float32)

    for side, attentions in (("encoder", ["self_attention"]), ("decoder", ["self_attention", "encdec_attention"])):
        for number in range(6):
            layer = f"{_TRANSFORMER}/body/{side}/layer_{number}"
            for attention in attentions:
                norm(f"{layer}/{attention}")
                for part in ("q", "k", "v", "output_transform"):
                    dense(f"{layer}/{attention}/multihead_attention/{part}", (512, 512))
            norm(f"{layer}/ffn")
            dense(f"{layer}/ffn/conv1", (512, 2048), bias=True)
            dense(f"{layer}/ffn/conv2", (2048, 512), bias=True)
        norm(f"{_TRANSFORMER}/body/{side}")
    tensors[f"{_TRANSFORMER}/body/target_space_embedding/kernel"] = tensors.normal(32, 512)
    return tensors


def resnet_50(technique, sparsity, seed=0, extended=False):
    """The tensors of ResNet-50: 53 convolutions and a dense layer, 25,502,912 weights.

    Args:
        technique: "masked", "vd", "l0" or `None`.
        sparsity: Share of zeros in each weight.
        seed: Seed of all numbers.
        extended: Whether the first layer is dense and the last has 80 % zeros.
    """
    tensors = _Tensors(technique, sparsity, seed)
    scopes, blocks = [("initial_conv", (7, 7, 3, 64))], (3, 4, 6, 3)
    inputs = 64
    for group, count in enumerate(blocks, 1):
        filters = 32 * 2**group
        for block in range(count):
            first = f"block_group_projection_block_group{group}"
            end = f"block_group{group}_{block}_1" if block else first
            if not block:
                scopes.append((f"bottleneck_projection_{end}", (1, 1, inputs, 4 * filters)))
            scopes.append((f"bottleneck_1_{end}", (1, 1, inputs, filters)))
            scopes.append((f"bottleneck_2_{end}", (3, 3, filters, filters)))
            scopes.append((f"bottleneck_3_{end}", (1, 1, filters, 4 * filters)))
            inputs = 4 * filters
    scopes.append(("final_dense", (2048, 1000)))
    for number, (scope, shape) in enumerate(scopes):
        own = None if extended and number == 0 else technique
        tensors.sparsity = 0.8 if extended and scope == "final_dense" else sparsity
        # The path of a scope is doubled in layers without masks.
        inner = {None: f"{scope}/{scope}", "masked": scope}.get(own, f"{scope}/{_RESNET}/{scope}")
        inside = f"{_RESNET}/{inner}"
        second = {"masked": f"{inside}/mask", "vd": f"{inside}/log_sigma2", "l0": f"{inside}/log_alpha"}
        tensors.weight(f"{inside}/weights", second, shape, [f"{inside}/weights/Momentum"], own)
        if own == "masked":
            tensors[f"{inside}/threshold"] = np.float32(0.1)
        if scope == "final_dense":
            tensors[f"{inside}/biases"] = np.zeros(1000, np.float32)
            continue
        norm = f"{_RESNET}/batch_normalization" + (f"_{number}" if number else "")
        for name in ("gamma", "moving_variance"):
            tensors[f"{norm}/{name}"] = np.ones(shape[-1], np.float32)
        for name in ("beta", "moving_mean"):
            tensors[f"{norm}/{name}"] = np.zeros(shape[-1], np.float32)
    return tensors


def write_tar(folder, name, tensors):
    """Writes tensors as the authors packed them: a TensorFlow checkpoint of step 500,000 in `name.tar`."""
    import tensorflow as tf

    prefix = os.path.join(folder, "model.ckpt-500000")
    names = {**tensors, "global_step": np.int64(500_000), "model_pruning/last_mask_update_step": np.int32(0)}
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(names),
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(value) for value in names.values()],
    )
    path = os.path.join(folder, f"{name}.tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(os.listdir(folder)):
            if file.startswith("model.ckpt-"):
                archive.add(os.path.join(folder, file), f"{name}/{file}")
                os.remove(os.path.join(folder, file))
    return Written(path, tensors.size, tensors.nonzeros)


def write_pth(folder, network, name):
    """Writes a network of `tests.checkpoints.str_networks` as STR's program does, with the state of its optimizer."""
    import torch

    state = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    momentum = {number: {"momentum_buffer": torch.zeros_like(p)} for number, p in enumerate(network.parameters())}
    path = os.path.join(folder, f"{name}.pth")
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.1, "params": list(momentum)}]}
    torch.save({"epoch": 100, "arch": name, "state_dict": state, "best_acc1": 74.3, "optimizer": optimizer}, path)
    size = nonzeros = 0
    for key, weight in state.items():
        threshold = state.get(key.replace("weight", "sparseThreshold")) if weight.ndim == 4 else None
        if threshold is not None:
            size += weight.numel()
            nonzeros += int((weight.abs() > torch.sigmoid(threshold)).sum())
    return Written(path, size, nonzeros)


def write_vocabulary(path):
    """Writes a subword file as tensor2tensor does, of as many symbols as the published one."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<pad>_", "<EOS>_", *letters, *(f"{letter}_" for letter in letters), "_"]
    words += [f"w{number}_" for number in range(VOCABULARY - len(words))]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"'{word}'\n" for word in words)
