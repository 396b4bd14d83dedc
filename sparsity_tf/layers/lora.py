"""LoRA adapters under a mask: `enable_lora` fine-tunes a masked layer, and merging the adapter keeps the zeros.

Keras's adapter adds the product of two small matrices to a frozen kernel (Hu et al., "LoRA: low-rank adaptation of
large language models", arXiv 2106.09685). This product is dense, so merging it into a sparse kernel would fill the
zeros. Here the mask multiplies the sum, mask * (kernel + (alpha / rank) a b), in training and at inference.
"""

from keras import ops

from sparsity_tf.backend import delete_attribute


def enabled(weight):
    """Whether a weight has an adapter. (A bias has none.)"""
    return getattr(weight.layer, "lora_enabled", False) and weight.name in ("kernel", "embeddings")


def adapted(weight, select=None):
    """The dense tensor of a weight, or the selected part of it, with the adapter added, in float32 or wider."""
    tensor = weight.tensor(select)
    if not enabled(weight):
        return tensor
    a, b = factors(weight.layer)
    # The function that selects rows of the weight selects the same rows of the adapter's first factor.
    rows = ops.convert_to_tensor(a) if select is None else select(ops.convert_to_tensor(a))
    return tensor + (weight.layer.lora_alpha / weight.layer.lora_rank) * ops.matmul(rows, b)


def factors(layer):
    """List of the two variables of a layer's adapter; empty if the layer has none."""
    names = [f"lora_{name}_{factor}" for name in ("kernel", "embeddings") for factor in "ab"]
    return [getattr(layer, name) for name in names if getattr(layer, "lora_enabled", False) and hasattr(layer, name)]


def clear(layer):
    """Makes the product of the factors zero, after it has been merged into the kernel.

    One factor stays as it is. If both were zero, as in Keras's own layers after loading, neither would have a gradient,
    and the adapter could not be trained any further.
    """
    for variable in factors(layer)[1:]:
        variable.assign(ops.zeros(variable.shape, variable.dtype))


def enable_as(layer, other):
    """Gives a layer the adapter that another layer has: its rank and its scale. The factors are new."""
    if not getattr(other, "lora_enabled", False):
        return
    if not layer.lora_enabled:
        layer.enable_lora(other.lora_rank, lora_alpha=other.lora_alpha)
    # The config of Keras's own layers forgets the scale.
    layer.lora_alpha = other.lora_alpha


def remove(layer):
    """Removes the adapter of a layer and makes the kernel trainable again, unless the layer is frozen."""
    for variable in factors(layer):
        delete_attribute(layer, variable.name)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    for weight in layer.sparse_weights:
        weight.variable.trainable = layer.trainable
