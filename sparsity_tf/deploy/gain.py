"""Says in one sentence, from counts only, how much shipping a network would gain.

The programs print this sentence as their last line but one.
"""

import keras

from sparsity_tf.bounded_files import one_line
from sparsity_tf.checks import check_built, check_model
from sparsity_tf.deploy.shrink import shrink

# Shrinking is worth it if it leaves fewer parameters than this fraction.
_WORTH = 0.95


def shipping_gain(model: keras.Model) -> str:
    """Says how much shipping a network would gain: how far it shrinks, or why it does not. Nothing is measured.

    `deployment_report` measures the gain and takes a minute. This function takes a fraction of a second for a small
    network.

    Args:
        model: Built Keras model, sparse or with zeros. It is left as it is.

    Returns:
        String, one line.

    Raises:
        ValueError: `model` is not a built Keras model.

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
            "structure='channel', with magnitude, random or static pruning, makes zeros that `shrink` can remove"
        )
    text = f"shipping: shrunk to {after:,} of {before:,} parameters ({before / after:.2f} times fewer)"
    if report.flops is None:
        return text
    before, after = report.flops
    return f"{text}, {before / max(after, 1):.2f} times fewer multiply-accumulates"
