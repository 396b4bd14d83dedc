r"""Converts a sparse network to a plain dense one that holds the zeros in its weights and needs only Keras to load.

```
python -m sparsity_tf.train.convert --checkpoint=sparse.keras --output=dense.keras \
    [--log_alpha_threshold=3.0] [--input_shape=32,32,3] [--overwrite] [--nocompact] \
    [--shrink] [--format=keras|litert|onnx|openvino|tf_saved_model|torch]
```

The command converts every technique: soft thresholds (STR), variational dropout, L0, masks, discovered wirings. The
dense network has the weights of inference. The command first writes the file under another name and reads it back. Only
if both networks predict the same on random inputs, the file gets its name. `--shrink` removes units and filters that do
nothing. Another `--format` writes a file for that runtime, runs the file there and compares predictions; the name of
the output must have the ending of the format; a SavedModel is a folder. Another format also takes a network that is
dense already. An existing output is replaced only with `--overwrite`. Exit status 1 if
anything is wrong, 2 for wrong flags; a command that fails leaves no file behind.
"""

import sys

from absl import flags

from sparsity_tf.tools.command import (
    CommandError,
    appearing,
    check_output,
    define_log_alpha_threshold,
    load_model,
    note,
    parse_shape,
    run,
)

_NAME = "convert"
# The endings of `deploy.export`'s files. `deploy` is only imported once the flags are known to be right.
_ENDINGS = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml", "tf_saved_model": "", "torch": ".pt2"}
_FORMATS = ["keras", *_ENDINGS]
_EXAMPLES = 4
_STEPS = 16
# Largest allowed difference of predictions, relative to the largest prediction. Most networks agree to the bit, but
# float32 rounds differently if a layer computes in another order (attention).
_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
_TOLERANCE = 1e-5


def main(argv=None):
    """Runs the command; returns the exit status: 0, 1 (it failed) or 2 (wrong flags)."""
    return run(_NAME, __doc__, _define_flags, _run, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string("checkpoint", None, "The sparse network, a .keras file or a published checkpoint.", **own)
    text = "The file to write, with the ending of its format: .keras, .tflite, .onnx, .xml, .pt2, or no ending."
    flags.DEFINE_string("output", None, text, **own)
    flags.DEFINE_enum("format", "keras", _FORMATS, "Format of the output.", **own)
    flags.DEFINE_boolean("shrink", False, "Remove units and filters that do nothing.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the output if it is there.", **own)
    define_log_alpha_threshold(values, "By default each layer keeps its own threshold.")
    flags.DEFINE_string(
        "input_shape", None, "Shape of one input, such as 32,32,3, if the network does not fix it.", **own
    )
    text = "Compress the .keras file if this saves more than a tenth. Keras reads it without this package."
    flags.DEFINE_boolean("compact", True, text, **own)
    flags.DEFINE_integer("seed", 0, "Seed of the random inputs.", lower_bound=0, **own)


def _run(values):
    for name in ("checkpoint", "output"):
        if values[name].value is None:
            raise flags.Error(f"Flag --{name} is required")
    shape = parse_shape(values.input_shape)
    ending = _ENDINGS.get(values.format, ".keras")
    saved_model = values.format == "tf_saved_model"
    check_output(values.output, ending, values.overwrite, saved_model=saved_model, checkpoint=values.checkpoint)
    model = load_model(values.checkpoint)
    from sparsity_tf import deploy, inspection
    from sparsity_tf.layers import flatten_layers
    from sparsity_tf.to_dense import to_dense

    weights = _sparse_weights(model, values.checkpoint, values.format == "keras")
    if values.log_alpha_threshold is not None:
        set_log_alpha_threshold(weights, values.log_alpha_threshold)
    dense = deploy.shrink(model) if values.shrink else to_dense(model)
    if values.format == "keras":
        with appearing(values.output, values.overwrite) as unfinished:
            difference = _write_keras(model, dense, unfinished, values.compact, shape, values.seed)
        lines = [f"largest difference of predictions on {_EXAMPLES} random inputs: {difference:.2g}"]
    else:
        check_same_predictions(model, dense, shape, values.seed)
        try:
            # `export` checks the file before the file appears.
            lines = str(deploy.export(dense, values.output, values.format)).splitlines()[1:]
        except (ImportError, RuntimeError) as error:
            raise CommandError(str(error)) from error
    table = inspection.sparsity_table(model)
    print(f"{len(table)} weights, {table.nonzeros:,} of {table.size:,} not zero: sparsity {100 * table.sparsity:.2f} %")
    if values.shrink:
        print(f"shrunk: {dense.shrink_report.parameters[0]:,} -> {dense.shrink_report.parameters[1]:,} parameters")
    print(*lines, sep="\n")
    ours = sorted({type(layer).__name__ for layer in flatten_layers(dense) if _is_ours(layer)})
    if ours and values.format == "keras":
        note(_NAME, f"the dense network still needs `import sparsity_tf` to load, for {', '.join(ours)}")
    print(f"{values.output}: dense")


def _write_keras(model, dense, path, compact, shape, seed):
    """Writes the dense network and reads it back; returns the largest difference of predictions."""
    from sparsity_tf.deploy import save_compact

    if compact:
        save_compact(dense, path)
    else:
        dense.save(path)
    return check_same_predictions(model, load_model(path), shape, seed)


def _sparse_weights(model, path, needed):
    from sparsity_tf import inspection
    from sparsity_tf.layers import get_sparse_weights

    weights = get_sparse_weights(model)
    if not weights and needed:
        raise CommandError(f"{path} has no sparse layers: it is a dense network already")
    table = inspection.sparsity_table(model)
    if not table.finite:
        bad = [row.name for row in table if not row.finite]
        raise CommandError(f"the network diverged: weights are not finite ({', '.join(bad)})")
    return weights


def set_log_alpha_threshold(weights, threshold):
    """Sets variational dropout's threshold on log alpha.

    Args:
        weights: List of `SparseWeight`.
        threshold: Finite number.

    Raises:
        CommandError: No weight has variational dropout.
    """
    techniques = [weight.technique for weight in weights if hasattr(weight.technique, "log_alpha_threshold")]
    if not techniques:
        names = ", ".join(sorted({weight.technique.name for weight in weights})) or "no sparse layers"
        raise CommandError(
            f"Flag --log_alpha_threshold needs a network with variational dropout. Received: a network with {names}"
        )
    for technique in techniques:
        technique.log_alpha_threshold = threshold


def check_same_predictions(sparse, dense, input_shape=None, seed=0):
    """Compares the predictions of two models on random inputs.

    Floating-point inputs are standard normal. Integer inputs, and all inputs of a model with embeddings, are whole
    numbers below the number of rows of the smallest embedding. If the length of a sequence is open, it gets 16 steps.

    Args:
        sparse: Built Keras model.
        dense: Built Keras model that should predict the same.
        input_shape: Shape of one input, or a list or dict of shapes. `None` takes the model's own shapes.
        seed: Integer seed of the inputs.

    Returns:
        Float: the largest difference between outputs, relative to the largest value of the same output.

    Raises:
        CommandError: The predictions differ by more than rounding or are not finite, or no random input fits the model.
    """
    import keras
    import numpy as np

    from sparsity_tf.inspection import tracing
    from sparsity_tf.layers import flatten_layers

    try:
        args, kwargs = tracing.symbolic_inputs(sparse, input_shape)
    except ValueError as error:
        sequences = _sequences(sparse) if input_shape is None else None
        if sequences is None:
            raise CommandError(f"--input_shape is needed to compare predictions: {error}") from error
        args, kwargs = (sequences,), {}
    rng = np.random.default_rng(seed)
    rows = min((layer.input_dim for layer in flatten_layers(sparse) if _is_embedding(layer)), default=None)

    def draw(spec):
        shape = (_EXAMPLES, *spec.shape[1:])
        if rows is not None or not keras.backend.is_float_dtype(spec.dtype):
            return keras.ops.convert_to_tensor(rng.integers(0, rows or 2, shape), dtype=spec.dtype)
        return keras.ops.convert_to_tensor(rng.standard_normal(shape), dtype=spec.dtype)

    args, kwargs = keras.tree.map_structure(draw, (args, kwargs))
    try:
        pair = [keras.tree.flatten(model(*args, **kwargs, training=False)) for model in (sparse, dense)]
    except Exception as error:  # a model may raise any error for random inputs that it doesn't expect
        raise CommandError(f"the network does not take random inputs of its shape: {error}") from error
    tolerance = max(_TOLERANCES.get(layer.compute_dtype, _TOLERANCE) for layer in flatten_layers(sparse))
    largest = 0.0
    for one, other in zip(*pair, strict=True):
        one, other = (keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in (one, other))
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            raise CommandError("predictions are not finite on random inputs: there is nothing to compare")
        scale = float(np.abs(one).max(initial=0.0))
        difference = float(np.abs(one - other).max(initial=0.0))
        largest = max(largest, difference / scale if scale else difference)
    if largest > tolerance:
        raise CommandError(
            f"the dense network does not predict the same: relative difference {largest:.3g}, allowed {tolerance:g}"
        )
    return largest


def _sequences(model):
    """Symbolic inputs if a model takes sequences of any length, (batch, time) or (batch, time, features); or `None`."""
    import keras

    if not getattr(model, "inputs", None):
        return None

    def with_length(x):
        shape = list(x.shape)
        if len(shape) in (2, 3) and shape[1] is None:
            shape[1] = _STEPS
        return keras.KerasTensor((1, *shape[1:]), dtype=x.dtype)

    specs = keras.tree.map_structure(with_length, model.inputs[0] if len(model.inputs) == 1 else model.input)
    known = all(None not in spec.shape for spec in keras.tree.flatten(specs))
    return specs if known else None


def _is_embedding(layer):
    import keras

    return isinstance(layer, keras.layers.Embedding)


def _is_ours(layer):
    return type(layer).__module__.partition(".")[0] == "sparsity_tf"


if __name__ == "__main__":
    sys.exit(main())
