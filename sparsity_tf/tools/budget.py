r"""Reads the budget (how sparse each weight is) of a trained network, or shows a budget and checks that it fits.

```
python -m sparsity_tf.train.budget --checkpoint=model.keras [--output=budget.csv] [--overwrite] [--input_shape=32,32,3]
python -m sparsity_tf.train.budget --input=budget.csv [--column=90.23] [--model=model.keras | --model=resnet_50]
```

The file has the layout of STR's budgets (Kusupati et al., ICML 2020, arXiv 2002.03231): `Metric,Params,FLOPs,Sparsity
(%)`, an overall line, a line for the backbone (all but the last layer), a line for each layer, and the poolings. FLOPs
are multiply-accumulates of the dense network. Percents have as many decimals as the exact number of zeros needs. If a
network has no sparse layers (for example after `train.convert`), the budget counts the zeros of its kernels. A PyTorch
checkpoint of STR (`.pth`) and a TensorFlow checkpoint of *State of Sparsity* are networks, too.

A later training can use the budget (`distribution=budget.csv` of the mask algorithms, `layers.set_sparsities` for
discovered wirings). Every layer then gets exactly as many zeros. The paper calls this "budget transfer".

With `--input` and `--model` (a `.keras` file or a builder of `sparsity_tf.models`), the command says which weight each
line belongs to and how many operations the network would need. Exit status 1 if the budget does not fit, 2 for wrong
flags.
"""

import fractions
import json
import math
import sys

from absl import flags

from sparsity_tf.text_table import text_table
from sparsity_tf.tools.command import CommandError, appearing, check_output, load_model, note, parse_shape, run

_NAME = "budget"


def main(argv=None):
    """Runs the command; returns the exit status: 0, 1 (it failed) or 2 (wrong flags)."""
    return run(_NAME, __doc__, _define_flags, _run, argv)


def _define_flags(values):
    own = {"flag_values": values}
    flags.DEFINE_string(
        "checkpoint", None, "Trained network, a .keras file or a .pth file of STR, whose budget is read.", **own
    )
    flags.DEFINE_string("output", None, "The .csv file to write. Without it, the budget is only shown.", **own)
    flags.DEFINE_boolean("overwrite", False, "Replace the output if it is there.", **own)
    flags.DEFINE_string(
        "input_shape", None, "Shape of one input, such as 32,32,3, if the network does not fix it.", **own
    )
    flags.DEFINE_string("input", None, "A budget to show: a .csv file in any of the known layouts.", **own)
    flags.DEFINE_string("column", None, "Which budget to read from a file that holds several, such as 90.23.", **own)
    flags.DEFINE_string("model", None, "Network that --input must fit: a .keras file, or e.g. resnet_50.", **own)
    flags.DEFINE_string("model_options", "{}", "Arguments of the builder, a JSON object.", **own)


def _run(values):
    if (values.checkpoint is None) == (values.input is None):
        raise flags.Error("One of the flags --checkpoint and --input is required")
    others = ("column", "model") if values.checkpoint else ("output",)
    wrong = [name for name in others if values[name].value is not None]
    if wrong:
        raise flags.Error(f"Flag --{wrong[0]} has no meaning with --{'checkpoint' if values.checkpoint else 'input'}")
    shape = parse_shape(values.input_shape)
    if values.checkpoint:
        _extract(values, shape)
    else:
        _show(values, shape)


def _extract(values, shape):
    if values.output:
        check_output(values.output, ".csv", values.overwrite)
    model = load_model(values.checkpoint)
    from sparsity_tf.distributions import budgets

    budget, costs, pooling = take_budget(model, shape)
    if values.output:
        with appearing(values.output, values.overwrite) as unfinished:
            budgets.write_str_csv(unfinished, budget, costs, pooling)
    print(_table([(name, None, budget.sizes[name], budget[name]) for name in budget]))
    _print_costs(budget, costs, pooling)
    if values.output:
        print(f"{values.output}: {len(budget)} layers")


def take_budget(model, input_shape=None):
    """The budget of a trained model, and the operations of its layers.

    Args:
        model: Built Keras model. If it has no sparse layers, the zeros of its kernels are counted.
        input_shape: As in `inspection.count_flops`.

    Returns:
        `(budget, costs, pooling)`. `budget`: a `budgets.Budget` whose names are paths of layers (of weights, if a layer
        has several). `costs`: a dict from these names to dense multiply-accumulates; `None` if they can't be counted,
        and a note on standard error says why. `pooling`: a dict from names of global poolings to their additions.

    Raises:
        CommandError: The model has no weights, or some weights are not finite.
    """
    from sparsity_tf import inspection
    from sparsity_tf.distributions import budgets, exact_sparsity

    table = inspection.sparsity_table(model)
    if not table.rows:
        raise CommandError(f"model {model.name!r} has no kernels or embeddings")
    if not table.finite:
        bad = [row.name for row in table if not row.finite]
        raise CommandError(f"the network diverged: weights are not finite ({', '.join(bad)})")
    if not any(row.sparse for row in table):
        note(_NAME, "the network has no sparse layers: the zeros of its kernels are counted")
    names = _names([row.name for row in table])
    sparsities, sizes = {}, {}
    for name, row in zip(names, table, strict=True):
        zeros = fractions.Fraction(row.size - row.nonzeros, row.size)
        sparsities[name], sizes[name] = exact_sparsity(zeros, row.size), row.size
    costs, pooling = _costs(model, names, input_shape)
    return budgets.Budget(sparsities, sizes), costs, pooling


def _names(paths):
    """The names for a budget: the path of each layer, or the paths of its weights if the layer has several."""
    layers = [path.rpartition("/")[0] or path for path in paths]
    names = [path if layers.count(layer) > 1 else layer for path, layer in zip(paths, layers, strict=True)]
    if len(set(names)) < len(names):
        raise CommandError(f"the network must have distinct names of layers. Received: {', '.join(names)}")
    return names


def _costs(model, names, input_shape):
    from sparsity_tf import inspection

    try:
        table = inspection.count_flops(model, "mac", input_shape)
    except ValueError as error:
        note(_NAME, f"FLOPs are left out: {error}")
        return None, {}
    rows = {row.name: row for row in table}
    missing = [name for name in names if name not in rows or rows[name].note.startswith("not counted")]
    if missing:
        note(_NAME, f"FLOPs are left out, because these layers can't be counted: {', '.join(missing)}")
        return None, {}
    pooling = {row.name: row.dense for row in table if row.kind.startswith("GlobalAveragePooling")}
    return {name: rows[name].dense for name in names}, pooling


def _show(values, shape):
    from sparsity_tf.distributions import budgets

    budget = budgets.read_csv(values.input, values.column)
    if values.model is None:
        sizes = budget.sizes or dict.fromkeys(budget)
        print(_table([(name, None, sizes[name], budget[name]) for name in budget]))
        return
    from sparsity_tf import inspection
    from sparsity_tf.distributions import TensorSpec

    model = _named_model(values.model, values.model_options)
    tensors = [TensorSpec(row.name, row.shape) for row in inspection.sparsity_table(model)]
    paths, sizes = [tensor.path for tensor in tensors], [math.prod(tensor.shape) for tensor in tensors]
    entries = budget.entries(tensors)
    sparsities = [budget[entry] for entry in entries]
    print(_table(list(zip(entries, paths, sizes, sparsities, strict=True))))
    names = _names(paths)
    fitted = budgets.Budget(dict(zip(names, sparsities, strict=True)), dict(zip(names, sizes, strict=True)))
    _print_costs(fitted, *_costs(model, names, shape))
    print(f"the budget fits {values.model}")


def _named_model(name, options):
    try:
        arguments = json.loads(options)
    except json.JSONDecodeError as error:
        raise flags.Error(f"Flag --model_options must be a JSON object ({error}). Received: {options}") from error
    if not isinstance(arguments, dict):
        raise flags.Error(f"Flag --model_options must be a JSON object. Received: {options}")
    if name.endswith(".keras"):
        if arguments:
            raise flags.Error("Flag --model_options has no meaning with a .keras file")
        return load_model(name)
    from sparsity_tf import models

    builders = [name for name in models.__all__ if callable(getattr(models, name)) and name != "all_but"]
    if name not in builders:
        raise flags.Error(f"Flag --model must be a .keras file or one of {', '.join(builders)}. Received: {name}")
    try:
        return getattr(models, name)(**arguments)
    except TypeError as error:
        raise flags.Error(f"Flag --model_options does not fit {name}: {error}") from error


def _table(rows):
    """Formats rows of (entry, weight or `None`, size or `None`, sparsity) as a table."""
    from sparsity_tf.masks import number_of_zeros

    body, total, live = [], 0, 0
    for entry, weight, size, sparsity in rows:
        left = None if size is None else size - number_of_zeros(sparsity, size)
        counts = ["", ""] if size is None else [f"{size:,}", f"{left:,}"]
        body.append([entry, weight or "", *counts, f"{100 * sparsity:.2f} %"])
        if size is not None:
            total, live = total + size, live + left
    if total:
        body.append(["total", "", f"{total:,}", f"{live:,}", f"{100 * (1 - live / total):.2f} %"])
    header = ["layer", "weight", "size", "non-zeros", "sparsity"]
    align = ["left", "left", "right", "right", "right"]
    if not any(row[1] for row in body):
        body, header, align = [row[:1] + row[2:] for row in body], header[:1] + header[2:], align[1:]
    return text_table(body, header, align)


def _print_costs(budget, costs, pooling):
    if costs is None:
        return
    added = sum(pooling.values())
    dense = sum(costs.values()) + added
    # Multiplies by the written sparsity instead of counting exact zeros, as the paper's tables do.
    sparse = sum(costs[name] * (1 - budget[name]) for name in costs) + added
    share = f" ({100 * sparse / dense:.2f} %)" if dense else ""
    print(f"multiply-accumulates of these layers and poolings: {dense:,} dense, {sparse:,.0f} without the zeros{share}")


if __name__ == "__main__":
    sys.exit(main())
