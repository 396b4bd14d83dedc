"""Builds a network from a checkpoint of any system whose names are known: *State of Sparsity* and STR."""

import keras

from sparsity_tf.checkpoints import state_of_sparsity, str_checkpoints
from sparsity_tf.checkpoints.checkpoint import Checkpoint, CheckpointError
from sparsity_tf.type_names import Shape


def network_kind(checkpoint: Checkpoint) -> str | None:
    """Tells which known network a checkpoint is of: "transformer", "resnet", "mobilenet" or `None`.

    Args:
        checkpoint: A `Checkpoint`.
    """
    return state_of_sparsity.network_kind(checkpoint) or str_checkpoints.network_kind(checkpoint)


def build_network(
    checkpoint: Checkpoint,
    num_heads: int | None = None,
    target_space: int = 0,
    form: str = "auto",
    input_shape: Shape | None = None,
) -> keras.Model:
    """Builds the network that a checkpoint describes, and loads its weights.

    Args:
        checkpoint: A `Checkpoint` of `state_of_sparsity` or `str_checkpoints`.
        num_heads: As in `state_of_sparsity.build_model`.
        target_space: As in `state_of_sparsity.build_model`.
        form: As in `str_checkpoints.build_model`; networks of *State of Sparsity* have the form of their file.
        input_shape: Shape of one image, channels last; `None` is (224, 224, 3). Transformers have none.

    Returns:
        A Keras model, not compiled.

    Raises:
        CheckpointError: The checkpoint is of no known network, lacks a tensor or has one of a wrong shape, or an
            argument has no meaning for it.
    """
    if state_of_sparsity.network_kind(checkpoint):
        _refuse("a network of State of Sparsity", form=(form, "auto"))
        return state_of_sparsity.build_model(checkpoint, num_heads, target_space, input_shape=input_shape)
    if str_checkpoints.network_kind(checkpoint):
        _refuse("a network of STR", num_heads=(num_heads, None), target_space=(target_space, 0))
        return str_checkpoints.build_model(checkpoint, form, input_shape or (224, 224, 3))
    raise CheckpointError(
        f"Checkpoint '{checkpoint.path}' is neither a Transformer (it has no symbol_modality_*) nor a ResNet of the "
        "State of Sparsity (it has no initial_conv), nor a ResNet or MobileNetV1 of STR (it has neither "
        "layer1.0.conv1.weight nor model.1.3.weight)"
    )


def _refuse(network, **arguments):
    for name, (given, default) in arguments.items():
        if given != default:
            raise CheckpointError(f"`{name}` has no meaning for {network}. Received: {name}={given!r}")
