"""Builds networks from the TensorFlow checkpoints of *The State of Sparsity* (Gale et al., arXiv 1902.09574).

This module knows two things. The first is the name that the paper's program (built on tensor2tensor, and on the ResNet
of the TPU models) gave each variable. The second is how to read a network from the names and shapes in a checkpoint:
its sizes, its technique, and the layers that have the technique. Checkpoints of tensor2tensor's own dense `transformer`
use the same names.

The names are taken from the published code. None of the published checkpoints was at hand for a test.
"""

import re

import keras
import numpy as np

from sparsity_tf.checkpoints.checkpoint import CheckpointError

# Technique -> the name of its second variable, in our layers and in the files (the embedding's has another name there).
_SECOND = {"vd": "log_sigma2", "l0": "log_alpha", "masked": "mask"}
_ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "output_transform"}
_BLOCKS = {  # blocks of each stage -> depth
    "bottleneck": {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152, (3, 24, 36, 3): 200},
    "residual": {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34},
}


def build_model(checkpoint, num_heads=None, target_space=0, technique_options=None, input_shape=None):
    """Builds the network that a checkpoint describes, and loads its weights.

    Args:
        checkpoint: A `Checkpoint` of a sparse or dense Transformer, or of a ResNet.
        num_heads: Number of attention heads of a Transformer. A checkpoint only tells it if each head has a matrix of
            its own. Default: one head for every 64 units ("base" has 8; "tiny" needs 4).
        target_space: Row of the Transformer's target-space table, 0 for tensor2tensor's translation problems.
        technique_options: Dict of options of the technique, such as `{"log_alpha_threshold": 2.5}`. `None` takes the
            defaults, which equal the defaults of the published programs.
        input_shape: Shape of one image of a ResNet, channels last, default (224, 224, 3). (A checkpoint does not tell
            it.)

    Returns:
        A Keras model of `models.Transformer` or `models.resnet`, not compiled.

    Raises:
        CheckpointError: The checkpoint is neither network, lacks a tensor, or has a tensor of a wrong shape.
    """
    names, kind = _names(checkpoint), network_kind(checkpoint)
    if kind == "transformer":
        if input_shape is not None:
            raise CheckpointError(f"`input_shape` is of ResNets only. Received: input_shape={input_shape}")
        return _Transformer(checkpoint, names, num_heads, target_space, technique_options or {}).load()
    if kind == "resnet":
        if num_heads is not None:
            raise CheckpointError(
                f"`num_heads` must be None for a ResNet, which has no attention heads. Received: num_heads={num_heads}"
            )
        return _ResNet(checkpoint, names, technique_options or {}).load(input_shape or (224, 224, 3))
    raise CheckpointError(
        f"Checkpoint '{checkpoint.path}' is neither a Transformer (it has no symbol_modality_*) nor a ResNet of the "
        "State of Sparsity (it has no initial_conv)"
    )


def network_kind(checkpoint):
    """Tells from the names in a checkpoint which published network it is: "transformer", "resnet" or `None`.

    Args:
        checkpoint: A `Checkpoint`.
    """
    names = _names(checkpoint)
    if any(re.search(r"(^|/)symbol_modality_\d+_\d+/", name) for name in names):
        return "transformer"
    return "resnet" if any(re.search(r"(^|/)initial_conv/", name) for name in names) else None


def _names(checkpoint):
    """The names of a checkpoint's tensors, without the slots of optimizers."""
    return [name for name in checkpoint.names() if not name.startswith("training/")]


class _Network:
    """The base of both networks: finds tensors by the end of their names, and sets the weights of layers."""

    def __init__(self, checkpoint, names, options):
        self.checkpoint, self.names, self.options = checkpoint, names, options

    def match(self, pattern):
        """Matches a regular expression with the end of each name; the match begins after a "/" or at the start."""
        return [found for name in self.names if (found := re.search(rf"(?:^|/)(?:{pattern})$", name))]

    def name(self, *endings):
        """The one tensor whose name ends in one of `endings`, or `None`."""
        found = {match.string for ending in endings for match in self.match(re.escape(ending))}
        if len(found) > 1:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has several tensors for {endings[0]}: {', '.join(sorted(found))}"
            )
        return found.pop() if found else None

    def tensor(self, *endings):
        """The tensor of `name`.

        Raises:
            CheckpointError: There is no such tensor.
        """
        name = self.name(*endings)
        if name is None:
            raise CheckpointError(f"Checkpoint '{self.checkpoint.path}' has no tensor that ends in {endings[0]}")
        return self.checkpoint.tensor(name)

    def technique(self, second_of):
        """Finds the technique: (technique or `None`, names of our layers that have it).

        Args:
            second_of: Dict from the names of our layers to functions. A function takes the name of a technique's second
                variable and returns the name of its tensor in the file, or `None`.
        """
        found = {
            technique: [layer for layer, second in second_of.items() if second(variable) is not None]
            for technique, variable in _SECOND.items()
        }
        used = [technique for technique, layers in found.items() if layers]
        if len(used) > 1:
            raise CheckpointError(f"Checkpoint '{self.checkpoint.path}' mixes techniques: {', '.join(used)}")
        return (used[0], found[used[0]]) if used else (None, [])

    def assign(self, layer, **values):
        """Sets variables of a layer; `values` maps the names of the variables to numbers."""
        variables = {variable.name: variable for variable in layer.variables}
        mask = values.pop("mask", None)
        for name, value in values.items():
            variable, value = variables[name], np.asarray(value)
            if tuple(variable.shape) != value.shape:
                raise CheckpointError(
                    f"Checkpoint '{self.checkpoint.path}': {layer.name}/{name} should have the shape "
                    f"{tuple(variable.shape)}, and has {value.shape}"
                )
            variable.assign(value)
        if mask is not None:
            (weight,) = layer.sparse_weights
            weight.assign_mask(np.asarray(mask) != 0)


class _Transformer(_Network):
    """Builds a `models.Transformer` from tensors with tensor2tensor's names."""

    def __init__(self, checkpoint, names, num_heads, target_space, options):
        super().__init__(checkpoint, names, options)
        self.num_heads, self.target_space = num_heads, target_space

    def load(self):
        from sparsity_tf import models

        embedding = self._shards("")
        vocabulary_size, hidden_size = embedding.shape
        shards = [int(match[1]) + 1 for match in self.match(r"self_attention/multihead_attention/q_shard_(\d+)/\w+")]
        heads = max(shards, default=0) or self.num_heads or max(hidden_size // 64, 1)
        if shards and self.num_heads not in (None, heads):
            raise CheckpointError(f"`num_heads` must be the checkpoint's {heads}. Received: num_heads={self.num_heads}")
        if hidden_size % heads:
            raise CheckpointError(f"`num_heads` must divide the {hidden_size} units. Received: num_heads={heads}")
        table = self.name("body/target_space_embedding/kernel")
        names = self._layers(heads if shards else 0)
        technique, layers = self.technique({name: self._second(name) for name in names})
        model = models.Transformer(
            vocabulary_size,
            num_layers=self._num_layers(),
            hidden_size=hidden_size,
            filter_size=self._kernel("encoder_layer1_ffn_inner").shape[1],
            num_heads=heads,
            num_target_spaces=self.checkpoint.shape(table)[0] if table else 0,
            target_space=self.target_space,
            split_heads=bool(shards),
            technique=technique,
            where=layers or None,
            **self.options,
        )
        for layer in model.layers:
            self._load_layer(layer, embedding, technique if layer.name in layers else None)
        return model

    def _num_layers(self):
        found = {int(match[1]) for match in self.match(r"body/encoder/layer_(\d+)/ffn/conv1/.*")}
        if found != set(range(len(found))) or not found:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' must have encoder layers with the numbers 0, 1, 2, ... "
                f"Received: {sorted(found)}"
            )
        return len(found)

    def _layers(self, split):
        """Names of our layers that have a kernel. `split`: the number of heads if each has its own matrices, or 0."""
        names = ["embedding"]
        for side, attentions in (("encoder", ("self",)), ("decoder", ("self", "cross"))):
            for number in range(self._num_layers()):
                prefix = f"{side}_layer{number + 1}"
                for attention in attentions:
                    for part in _ATTENTION:
                        name = f"{prefix}_{attention}_attention_{part}"
                        heads = range(split) if part != "output" else ()
                        names += [f"{name}_head{head + 1}" for head in heads] or [name]
                names += [f"{prefix}_ffn_inner", f"{prefix}_ffn_outer"]
        return names

    def _scope(self, layer):
        """The TensorFlow scope, from `body/` on, of one of our layers that have a kernel."""
        match = re.fullmatch(r"(encoder|decoder)_layer(\d+)_(self|cross)_attention_(\w+?)(?:_head(\d+))?", layer)
        if match:
            side, number, attention, part, head = match.groups()
            attention = "self_attention" if attention == "self" else "encdec_attention"
            shard = f"_shard_{int(head) - 1}" if head else ""
            return f"body/{side}/layer_{int(number) - 1}/{attention}/multihead_attention/{_ATTENTION[part]}{shard}"
        side, number, part = re.fullmatch(r"(encoder|decoder)_layer(\d+)_ffn_(inner|outer)", layer).groups()
        return f"body/{side}/layer_{int(number) - 1}/ffn/conv{1 if part == 'inner' else 2}"

    def _endings(self, layer, *variables):
        """Name endings of a layer's variable: directly in its scope, or in the inner scope of the pruning library."""
        scope = self._scope(layer)
        return [f"{scope}/{inner}{variable}" for variable in variables for inner in ("", "fully_connected/")]

    def _kernel(self, layer):
        return self.tensor(*self._endings(layer, "kernel", "weights"))

    def _second(self, layer):
        if layer == "embedding":
            return self._second_of_embedding
        return lambda variable: self.name(*self._endings(layer, variable))

    def _second_of_embedding(self, variable):
        if variable == "mask":
            return self.name("shared/mask")
        if not self.match(r"shared/weights_\d+_aux"):
            return None
        # Variational dropout and L0 both name this variable "_aux". The variables of the other layers tell them apart.
        others = self.match(rf"body/.*/{variable}")
        return others[0].string if others else None

    def _shards(self, suffix):
        """Joins the shards of the embedding, or of its second variable (suffix "_aux"): `(vocabulary, units)`."""
        found = {int(match[1]): match.string for match in self.match(rf"shared/weights_(\d+){suffix}")}
        if not found or sorted(found) != list(range(len(found))):
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' must have one embedding for input and output, in the variables "
                f"symbol_modality_*/shared/weights_0, weights_1, ... Received: shards with the numbers {sorted(found)}"
            )
        return np.concatenate([self.checkpoint.tensor(found[shard]) for shard in sorted(found)])

    def _load_layer(self, layer, embedding, technique):
        if layer.name == "embedding":
            values = {"embeddings": embedding}
            if technique:
                masked = technique == "masked"
                values[_SECOND[technique]] = self.tensor("shared/mask") if masked else self._shards("_aux")
            self.assign(layer, **values)
        elif layer.name == "encoder_target_space":
            self.assign(layer, table=self.tensor("body/target_space_embedding/kernel"))
        elif isinstance(layer, keras.layers.LayerNormalization):
            scope = f"{self._scope_of_norm(layer.name)}layer_prepostprocess/layer_norm"
            gamma, beta = (self.tensor(f"{scope}/layer_norm_{variable}") for variable in ("scale", "bias"))
            self.assign(layer, gamma=gamma, beta=beta)
        elif isinstance(layer, keras.layers.Dense):
            values = {"kernel": self._kernel(layer.name)}
            if layer.use_bias:
                values["bias"] = self.tensor(*self._endings(layer.name, "bias", "biases"))
            if technique:
                values[_SECOND[technique]] = self.tensor(*self._endings(layer.name, _SECOND[technique]))
            self.assign(layer, **values)

    @staticmethod
    def _scope_of_norm(name):
        if name in ("encoder_norm", "decoder_norm"):
            return f"body/{name.removesuffix('_norm')}/"
        side, number, part = re.fullmatch(r"(encoder|decoder)_layer(\d+)_(\w+)_norm", name).groups()
        return f"body/{side}/layer_{int(number) - 1}/{part.replace('cross_', 'encdec_')}/"


class _ResNet(_Network):
    """Builds a `models.resnet` from tensors with the names of the paper's ResNet."""

    def load(self, input_shape):
        from sparsity_tf import models

        kind, blocks = self._blocks()
        depth = _BLOCKS[kind].get(blocks)
        if depth is None:
            raise CheckpointError(
                f"Checkpoint '{self.checkpoint.path}' has {blocks} {kind} blocks, which fits no ResNet that this "
                "package knows"
            )
        scopes = self._scopes(kind, blocks)
        technique, layers = self.technique({layer: self._second(scope) for layer, scope in scopes.items()})
        bias = self._variable("final_dense", "biases")
        model = models.resnet(
            depth,
            input_shape,
            num_classes=bias.shape[0],
            width=self._variable("initial_conv", "weights").shape[-1] / 64,
            variant="state_of_sparsity",
            technique=technique,
            technique_options=dict(self.options) if technique else None,
            where=layers or None,
        )
        for number, (name, scope) in enumerate(scopes.items()):
            layer = model.get_layer(name)
            values = {"kernel": self._variable(scope, "weights")}
            if name == "classifier":
                values["bias"] = bias
            else:
                self._load_batch_norm(model.get_layer(f"{name}_bn"), number)
            if name in layers:
                values[_SECOND[technique]] = self._variable(scope, _SECOND[technique])
            self.assign(layer, **values)
        return model

    def _blocks(self):
        """Finds the kind of block, "bottleneck" or "residual", and the number of blocks in each stage."""
        kind = "bottleneck" if self.match(r"bottleneck_1_block_group\w*/.*") else "residual"
        blocks = []
        for group in range(1, 5):
            further = {int(match[1]) for match in self.match(rf"{kind}_1_block_group{group}_(\d+)_1/.*")}
            blocks.append(1 + len(further))
        return kind, tuple(blocks)

    def _scopes(self, kind, blocks):
        """Dict from our layers with a kernel to their scopes, in the order in which the paper's program makes them."""
        scopes = {"stem": "initial_conv"}
        for stage, count in enumerate(blocks, 1):
            for block in range(1, count + 1):
                first = f"block_group_projection_block_group{stage}"
                end = first if block == 1 else f"block_group{stage}_{block - 1}_1"
                if block == 1:
                    scopes[f"stage{stage}_block1_projection"] = f"{kind}_projection_{end}"
                for conv in range(1, 4 if kind == "bottleneck" else 3):
                    scopes[f"stage{stage}_block{block}_conv{conv}"] = f"{kind}_{conv}_{end}"
        scopes["classifier"] = "final_dense"
        return scopes

    def _endings(self, scope, variable):
        # The variable sits in its scope, or in a scope of the same name inside it. This depends on the technique.
        top = "resnet_model"
        return [f"{top}/{scope}/{inner}{variable}" for inner in ("", f"{top}/{scope}/", f"{scope}/")]

    def _second(self, scope):
        return lambda variable: self.name(*self._endings(scope, variable))

    def _variable(self, scope, variable):
        endings = self._endings(scope, variable)
        if variable in ("weights", "biases"):
            endings += self._endings(scope, {"weights": "kernel", "biases": "bias"}[variable])
        return self.tensor(*endings)

    def _load_batch_norm(self, layer, number):
        scope = "resnet_model/batch_normalization" + (f"_{number}" if number else "")
        variables = ("gamma", "beta", "moving_mean", "moving_variance")
        self.assign(layer, **{variable: self.tensor(f"{scope}/{variable}") for variable in variables})
