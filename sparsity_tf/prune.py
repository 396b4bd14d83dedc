"""One-shot pruning: makes masks for a model as it is, without training and without compiling the model.

Sources: magnitude: Han et al., "Learning both weights and connections" (arXiv 1506.02626); Taylor: Molchanov et al.,
"Importance estimation for neural network pruning" (CVPR 2019, arXiv 1906.10771, equation 8; for one batch and single
weights the ranking is the ranking of SNIP, Lee et al., arXiv 1810.02340); Wanda: Sun et al., "A simple and effective
pruning approach for large language models" (arXiv 2306.11695).
"""

import contextlib
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from sparsity_tf import distributions
from sparsity_tf.backend import slots_of, strategy_scope, trained_variables
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base import optimizer_slots, tied_weights
from sparsity_tf.callbacks.base.cost_target import the_target
from sparsity_tf.callbacks.base.output_layers import dense_selection
from sparsity_tf.callbacks.base.weight_view import WeightView, read_mask
from sparsity_tf.checks import check_built, check_callable, check_choice, check_fraction, check_integer, check_selection
from sparsity_tf.layers import SparseLayer, flatten_layers, get_sparse_weights, unmake_sparse
from sparsity_tf.layers.composite import SparseComposite
from sparsity_tf.masks import structures
from sparsity_tf.one_shot import refit, scores, selection, synflow
from sparsity_tf.prune_report import PruneReport, PruneRow
from sparsity_tf.sparsify import mask_selected
from sparsity_tf.type_names import Data, DenseWeights, DistributionLike, Where

SCORES = ("magnitude", "random", "taylor", "fisher", "gradient", "wanda", "synflow", "sparsegpt", "obs")
# The methods that measure the inputs of layers.
_OF_INPUTS = ("wanda", *refit.SOLVERS)
SCOPES = ("layer", "global", "output")


def prune(
    model: keras.layers.Layer,
    sparsity: float | None = None,
    by: str | Callable[[WeightView], np.ndarray] = "magnitude",
    data: Data | None = None,
    loss: str | keras.losses.Loss | None = None,
    scope: str | None = None,
    distribution: DistributionLike = "uniform",
    structure: str | None = None,
    where: Where = None,
    dense: DenseWeights = None,
    seed: int = 0,
    target_flops: float | None = None,
    target_parameters: float | None = None,
    rounds: int | None = None,
) -> keras.layers.Layer:
    """Prunes a model once, in place: the weights with the lowest scores become zero, and stay zero in training.

    A plain Keras model is made sparse first, as by `sparsify(model, "masked")`. If the model has masked layers, these
    layers are pruned further, and zeros stay zeros; plain layers become masked only if `where` selects them. Frozen
    layers are pruned, too. Nothing is trained, and the model need not be compiled. Afterwards you can train it further
    under its masks, or pass it to `to_dense`. A network with batch normalisation should go through
    `refresh_statistics`.

    Scores of a weight w, over the batches of `data`:

    * "magnitude": |w|;
    * "random": a random number;
    * "taylor": the mean over batches of (w dL/dw)^2. To first order, w dL/dw is the change of the loss if w is removed,
      up to its sign. For a block or filter the score is the square of the sum of its w dL/dw;
    * "fisher": the mean over batches of (w dL/dw)^2, as for "taylor"; for a block or filter the mean of its entries'
      scores. Up to a factor it is the second-order change of the loss (optimal brain damage), with the diagonal of the
      empirical Fisher matrix, from gradients of batches, as the Hessian;
    * "gradient": the mean over batches of |dL/dw|;
    * "wanda": |w| ||x||_2, where x are all inputs that are multiplied by w. In every layer these are the inputs before
      pruning. (The paper prunes block after block, and measures the next block on the pruned blocks before it.) Weights
      whose inputs are always 0 come last, ranked by |w|;
    * "synflow": |w| dR/d|w|, where R is the sum of the outputs for inputs of ones in the network of the magnitudes, in
      `rounds` rounds (Tanaka et al., arXiv 2006.05467). For a network before training; it must end in logits.

    Two methods change the weights that are left, so that the outputs of each layer change least on `data`. Layer after
    layer is measured in the network that is pruned up to it. They know Dense, EinsumDense and convolutions:

    * "sparsegpt": Frantar & Alistarh, arXiv 2301.00774. The inputs of a layer in turn; weights of later inputs adapt;
    * "obs": optimal brain surgeon (Frantar et al., arXiv 2208.11580). The weight that costs least is removed, all other
      weights of the output unit adapt, and so on. Its time grows as inputs^3 x outputs: for layers of up to a few
      hundred inputs.

    Their Hessians have 1 % of the mean of the diagonal added to the diagonal.

    L is the mean loss of a batch, computed as at inference.

    Args:
        model: Built Keras model or layer.
        sparsity: Fraction of zeros, in [0, 1). Of n entries, or groups of a structure, exactly floor((1 - sparsity) n)
            live, or all that lived before if these are fewer. You may leave it out with an N:M structure (1 - N / M),
            if `distribution` gives a number to each weight, or if you give a target.
        by: One of "magnitude", "random", "taylor", "fisher", "gradient", "wanda", "synflow", "sparsegpt", "obs"; or a
            function of a `sparsity_tf.callbacks.WeightView` that returns scores of the shape of its `value`.
        data: A few batches, for "taylor", "fisher", "gradient", "wanda", "sparsegpt" and "obs". One batch is a tuple
            (x, y) or (x, y, sample_weight); for the last three it may also be x alone. Several batches are an iterable
            that ends.
        loss: For "taylor", "fisher" and "gradient": a Keras loss or its name. Default: the loss that the model is
            compiled with, regularizers included.
        scope: Which scores are compared with each other. "layer": the scores in each weight. "global": the scores of
            all weights together (as in Taylor's papers; not with "wanda", "sparsegpt" and "obs", whose scores have the
            scale of their layer). "output": the scores of the inputs of each output unit; every unit keeps
            floor((1 - sparsity) inputs) of them (as in Wanda's paper). Default: "output" for "wanda" without blocks or
            filters, "global" for "synflow", else "layer".
        distribution: How the sparsity is distributed over the weights: "uniform", "erk", a dict, a CSV file, ...
            (`sparsity_tf.distributions.allocate`). With scope "global" only "uniform".
        structure: Says which entries live and die together: "2:4", "4x1", "filter", or "channel", "head", "unit", which
            `shrink` removes (`sparsity_tf.masks.structures`). It is set on the layers and saved in their config.
            Default: the structure of the layers. With "channel", "head" or "unit", sparsities count channels, and at
            least one channel of each layer lives. The score of a channel is then the mean of |w| over all weights that
            make it, or random. A function `by` gets a `TiedWeight` and returns one score for each channel.
        where: Selects layers, as in `sparsify`. Default: all masked layers, or in a plain model all layers that can be
            sparse.
        dense: Weights that stay dense: "first", "last", names (`sparsity_tf.distributions.allocate`). Default: none.
            With structure "filter" the default is the output layers, unless `where` (".*" is all) or explicit
            sparsities say which weights to prune.
        seed: Integer: the seed of random scores.
        target_flops, target_parameters: Give one of them instead of `sparsity`, with structure "channel", "head" or
            "unit" and scope "layer". It is a share in (0, 1) of the dense model's FLOPs or parameters, which the model
            does not exceed after `shrink`. The sparsity is the smallest that meets the target.
        rounds: Number of rounds of "synflow". Default: 100.

    Returns:
        The same model. `model.prune_report` says how many entries of each weight are left.

    Raises:
        ValueError: For any other argument, and if there is nothing to prune. The model is then unchanged: a plain model
            stays plain.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.8, by="wanda", data=x[:128])
    print(model.prune_report)
    ```
    """
    check_built("model", model)
    kind = structures.get(structure)
    target = the_target(target_flops, target_parameters, sparsity=sparsity)
    if target is None:
        sparsity = _checked_sparsity(sparsity, kind, distribution)
    _check_arguments(model, by, data, loss, where, dense, seed, rounds)
    scope = _checked_scope(scope, by, kind, distribution)
    if tied := _tied_structure(model, kind):
        return _prune_tied(model, sparsity, target, by, tied, scope, distribution, where, dense, seed)
    if target is not None:
        raise ValueError(
            f"`{target.name}` needs a structure that `shrink` removes, one of {list(structures.TIED)}. "
            f"Received: {target}, structure={structure!r}"
        )
    if loss is not None:
        loss = scores.mean_loss(loss)
    with _unchanged_on_failure(model):
        weights = _masked_weights(model, where)
        for weight in weights:
            weight.technique.structure = kind.spec or weight.technique.structure
        if sparsity is not None:
            structures.check("sparsity", sparsity, weights)
        kept_dense = dense_selection(model, weights, where, dense, distribution)
        targets = distributions.allocate(weights, sparsity, distribution, dense=kept_dense)
        chosen = [weight for weight in weights if targets[weight.path]]
        kinds = [structures.get(weight.technique.structure) for weight in chosen]
        _check_kinds(scope, chosen, kinds)
        goals = [targets[weight.path] for weight in chosen]
        if not chosen:
            found = []
        elif by == "synflow":
            found = synflow.prune(model, chosen, kinds, sparsity, rounds or synflow.ROUNDS)
        elif by in refit.SOLVERS:
            refit.check(chosen, by)
            found = refit.prune(model, chosen, goals, by, scope, data)
        else:
            views = [_view(weight, index, seed) for index, weight in enumerate(chosen)]
            computed = scores.compute(by, model, chosen, views, data, loss)
            found = selection.new_masks(by, views, kinds, computed, goals, scope, sparsity)
    _assign(model, chosen, found, adapted=isinstance(by, str) and by in refit.SOLVERS)
    _report(model, by, scope, [(weight, read_mask(weight), targets[weight.path]) for weight in weights])
    return model


def _tied_structure(model, kind):
    """The structure that ties layers, from the argument or from the layers, or `None`."""
    if kind.spec is not None:
        return kind.spec if kind.ties_layers else None
    held = {w.technique.structure for w in get_sparse_weights(model) if w.technique.name == "masked"}
    return next((spec for spec in held if structures.get(spec).ties_layers), None)


def _prune_tied(model, sparsity, target, by, structure, scope, distribution, where, dense, seed):
    """`prune` for a structure that ties layers: ranks channels, heads or units."""
    if not callable(by):
        check_choice("by", by, ("magnitude", "random"))
    check_choice("scope", scope, ("layer", "global"))
    if target is not None and scope == "global":
        raise ValueError(
            "`scope` must be 'layer' with a target for the cost: with 'global' the scores alone decide how sparse "
            f"each layer becomes. Received: scope='global', {target}"
        )
    with _unchanged_on_failure(model):
        weights = tied_weights.of_model(model, structure, where)
        if target is not None:
            sparsity = target.sparsity(model, weights, distribution, dense)
        if scope == "global":
            targets = dict.fromkeys((weight.path for weight in weights), sparsity)
        else:
            targets = distributions.allocate(weights, sparsity, distribution, dense=dense)
        found = tied_weights.choose(weights, _tied_scores(by, weights, seed), targets, scope)
    _assign(model, *tied_weights.spread(weights, found, found, None)[:2])
    _report(model, by, scope, [(weight, weight.mask(), targets[weight.path]) for weight in weights])
    return model


def _tied_scores(by, weights, seed):
    """The scores of the channels: a list of vectors with one score for each channel."""
    if by == "random":
        rng = np.random.default_rng(seed)
        return [rng.random(weight.size) for weight in weights]
    if by == "magnitude":
        return [weight.norms(weight.values(), "l1") for weight in weights]
    scores = [np.asarray(by(weight)) for weight in weights]
    for weight, vector in zip(weights, scores, strict=True):
        if vector.shape != weight.shape or not np.can_cast(vector.dtype, "float64") or np.isnan(vector).any():
            nan = "" if vector.dtype.kind != "f" else f", {np.count_nonzero(np.isnan(vector))} NaN"
            raise ValueError(
                f"`by` must return {weight.size} numbers for {weight.path!r}, one for each "
                f"{weight.technique.structure}. Received of {criteria.name_of(by)}: shape {vector.shape}, "
                f"{vector.dtype}{nan}"
            )
    return scores


def _report(model, by, scope, found):
    """Sets `model.prune_report`. `found` is an iterable of `(weight, mask, target)`."""
    rows = (PruneRow(weight.path, weight.size, int(np.count_nonzero(mask)), target) for weight, mask, target in found)
    name = by if isinstance(by, str) else getattr(by, "__name__", repr(by))
    model.prune_report = PruneReport(name, scope, tuple(rows), _has_batch_normalization(model))


# Arguments.


def _checked_sparsity(sparsity, kind, distribution):
    explicit = getattr(distributions.get(distribution), "explicit", False)
    if sparsity is None and isinstance(kind, structures.NM):
        return kind.sparsity
    if sparsity is not None or not explicit:
        check_fraction("sparsity", sparsity)
    return sparsity


def _check_arguments(model, by, data, loss, where, dense, seed, rounds):
    if callable(by):
        check_callable("by", by, "weight")
    else:
        check_choice("by", by, SCORES)
    check_selection("where", where, "layer")
    check_selection("dense", dense, "tensor", empty=True)
    check_integer("seed", seed, 0)
    if rounds is not None:
        check_integer("rounds", rounds, 1)
        if by != "synflow":
            raise ValueError(f"`rounds` can be given only with by='synflow'. Received: rounds={rounds}, by={by!r}")
    needs_loss = isinstance(by, str) and by in scores.OF_LOSS
    needs_data = needs_loss or isinstance(by, str) and by in _OF_INPUTS
    if needs_data and data is None:
        batches = "(x, y)" if needs_loss else "x"
        raise ValueError(f"`data` must be given for by={by!r}: a few batches {batches}. Received: data=None")
    if not needs_data and data is not None:
        names = ", ".join(map(repr, (*scores.OF_LOSS, *_OF_INPUTS)))
        raise ValueError(f"`data` can be given only with `by` one of {names}. Received: by={by!r}")
    if loss is not None and not needs_loss:
        names = ", ".join(map(repr, scores.OF_LOSS))
        raise ValueError(f"`loss` can be given only with `by` one of {names}. Received: loss={loss!r}, by={by!r}")
    if needs_loss and loss is None and not getattr(model, "compiled", False):
        raise ValueError(
            f"`loss` must be given for by={by!r} and a model that is not compiled, such as "
            "'sparse_categorical_crossentropy'. Received: loss=None"
        )


def _checked_scope(scope, by, kind, distribution):
    if scope is None:
        if by == "synflow":
            return "global"
        whole = isinstance(kind, structures.Blocks | structures.Filters)
        return "output" if by == "wanda" and not whole else "layer"
    check_choice("scope", scope, SCOPES)
    if scope == "global" and not (isinstance(distribution, str) and distribution == "uniform"):
        raise ValueError(
            "`distribution` must be 'uniform' (the default) with scope='global': there the scores decide how sparse "
            f"each weight becomes. Received: distribution={distribution!r}"
        )
    if by == "synflow" and scope != "global":
        raise ValueError(f"`scope` must be 'global' with by='synflow'. Received: scope={scope!r}")
    if scope == "global" and isinstance(by, str) and by in _OF_INPUTS:
        raise ValueError(
            f"`scope` must be 'output' or 'layer' with by={by!r}: the scores of different layers can't be compared, "
            "because they grow with the inputs of the layer. Received: scope='global'"
        )
    return scope


def _check_kinds(scope, weights, kinds):
    for weight, kind in zip(weights, kinds, strict=True):
        if scope == "global" and isinstance(kind, structures.NM):
            raise ValueError(
                "`scope` must not be 'global' with an N:M structure: the structure sets how many weights of each "
                f"group live. Received: scope='global', structure={kind.spec!r} of {weight.path!r}"
            )
        if scope == "output" and not (kind.spec is None or isinstance(kind, structures.NM)):
            raise ValueError(
                "`scope` must not be 'output' with this structure: only single weights and N:M groups are inputs of "
                f"one output unit. Received: scope='output', structure={kind.spec!r} of {weight.path!r}"
            )


# The model.


@contextlib.contextmanager
def _unchanged_on_failure(model):
    """A context that undoes changes of layers if its body fails. The body must leave weights alone, or restore them."""
    layers = flatten_layers(model)
    sparse = {id(layer) for layer in layers if isinstance(layer, SparseLayer)}
    composite = {id(layer) for layer in layers if isinstance(layer, SparseComposite)}
    structure = [(layer.technique, vars(layer.technique).get("structure")) for layer in layers if id(layer) in sparse]
    report = getattr(model, "sparsify_report", None)
    try:
        yield
    except BaseException:
        for layer in layers:
            if isinstance(layer, SparseLayer) and id(layer) not in sparse:
                unmake_sparse(layer)
            if isinstance(layer, SparseComposite) and id(layer) not in composite:
                layer.__class__ = type(layer).plain_class
        for technique, spec in structure:
            if "structure" in vars(technique):
                technique.structure = spec
        if getattr(model, "sparsify_report", None) is not report:
            if report is None:
                del model.sparsify_report
            else:
                model.sparsify_report = report
        raise


def _masked_weights(model, where):
    """The masked weights that `where` selects. Plain layers that it selects are made masked first."""
    weights = [weight for weight in mask_selected(model, where) if weight.size]
    if not weights:
        raise ValueError(
            "There is nothing to prune: `where` selects none of the masked layers, or they are not built. "
            f"Received: where={where!r}"
        )
    return weights


def _view(weight, index, seed):
    return WeightView(
        path=weight.path,
        value=lambda: np.asarray(ops.convert_to_numpy(weight.value()), "float32"),
        mask=read_mask(weight),
        rng=lambda: np.random.default_rng([seed, 0, index]),
        filter_axes=weight.filter_axes,
    )


def _has_batch_normalization(model):
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in flatten_layers(model))


def _assign(model, weights, found, adapted=False):
    """Sets masks. The optimizer's slots of pruned entries, averages of weights included, get their initial value.

    With `adapted` the weights that are left have new values, and their averages become these values: an average of the
    old ones, written back at the end of training, would undo the method's work.
    """
    optimizer = getattr(model, "optimizer", None)
    trained = set()
    if optimizer is not None and optimizer.built:
        trained = {id(variable) for variable in trained_variables(optimizer)}
    with strategy_scope(model) if isinstance(model, keras.Model) else contextlib.nullcontext():
        for weight, mask in zip(weights, found, strict=True):
            weight.assign_mask(mask)
            for slot, initial in slots_of(optimizer, weight.variable) if id(weight.variable) in trained else ():
                tensor = ops.convert_to_tensor(slot)
                slot.assign(ops.where(ops.convert_to_tensor(mask), tensor, ops.cast(initial, tensor.dtype)))
            if adapted and id(weight.variable) in trained:
                optimizer_slots.restart_average(optimizer, weight.variable)
