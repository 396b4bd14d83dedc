"""What shipping a network would gain, in one sentence from counts alone: the last line but one of the programs."""

import keras

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_built, check_model
from sparsity_tf.deploy.shrink import shrink

# Fewer parameters than this fraction make a network that is worth shrinking.
_WORTH = 0.95


def shipping_gain(model: keras.Model) -> str:
    """Says what shipping a network would gain: how far it shrinks, or why it does not. Nothing is measured.

    `deployment_report` measures; it takes a minute, this a fraction of a second for a small network.

    Args:
        model: Built Keras model, sparse or with zeros. It is left as it is.

    Returns:
        String, one line.

    Raises:
        ValueError: `model` is no built Keras model.

    Example:

    ```python
    print(sparsity_tf.deploy.shipping_gain(model))
    # shipping: shrunk to 52,110 of 266,610 parameters (5.12 times fewer), 5.10 times fewer multiply-accumulates
    ```
    """
    check_model("model", model)
    check_built("model", model)
    try:
        report = shrink(model).shrink_report
    except (ValueError, RuntimeError) as error:
        return f"shipping: the network can't be shrunk: {one_line(error)}"
    before, after = report.parameters
    if after > _WORTH * before:
        return (
            "shipping: hardly any unit or filter is dead, so the file compresses and no runtime gets faster: "
            "structure='channel' prunes what `shrink` removes"
        )
    text = f"shipping: shrunk to {after:,} of {before:,} parameters ({before / after:.2f} times fewer)"
    if report.flops is None:
        return text
    before, after = report.flops
    return f"{text}, {before / max(after, 1):.2f} times fewer multiply-accumulates"
