"""Makes any Keras model sparse, in place.

To make a layer sparse, its class is replaced by the sparse class of the same kind, and the technique's variables are
added. The layer object, its name, its weights and its place in the graph stay. Keras's own `quantize` and `enable_lora`
work on a model in the same way. A layer that can't be made sparse is skipped and reported, with the reason.

Layers that create their own sublayers (`MultiHeadAttention`, a subclassed model) don't mention these in their config.
`composite.py` records in their config which sublayers are sparse.
"""

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from sparsity_tf.backend import drop_functions, own_variables, sublayers
from sparsity_tf.checks import check_layer, meant, selection_entries
from sparsity_tf.layers import (
    LAYER_CLASSES,
    TECHNIQUES,
    SparseLayer,
    Technique,
    composite,
    flatten_layers,
    get_masked_parts,
    get_sparse_weights,
    make_sparse,
    unmake_sparse,
)
from sparsity_tf.masks import structures
from sparsity_tf.matching import (
    match_layers,
    match_masked_weights,
    matcher,
    no_match,
    path_of,
    shorten,
    sublayers_meant,
)
from sparsity_tf.sparsify_report import ChangedLayer, SkippedLayer, SparsifyReport
from sparsity_tf.type_names import Where
from sparsity_tf.user_warning import warn_user

_NORMALIZED = (
    "SpectralNormalization around it divides the dense kernel by its norm, and not the sparse kernel that the "
    "technique makes from it (use technique 'masked': it keeps the kernel itself sparse)"
)


def sparsify(
    model: keras.layers.Layer,
    technique: str | Technique,
    where: Where = None,
    filters: str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None = None,
    **technique_options: Any,
) -> keras.layers.Layer:
    """Makes the layers of a model sparse, in place.

    Weights and layer names stay as they are. With "masked", predictions also stay the same to the bit. If the technique
    adds trainable variables to a model that was trained before, compile the model again: the report says so, and Keras
    refuses to train it otherwise. (Also compile a model again that contains this one and was trained before.)

    Pass the whole model that you will save or convert by `to_dense`, and select a part of it by `where`. If you pass
    only a part of a subclassed model, the file of the whole model does not record the change and can't be loaded.

    Args:
        model: Keras model or layer: functional, sequential or subclassed, nested, built or not.
        technique: Name ("variational_dropout" or "vd", "group_variational_dropout", "structured_bayesian", "l0",
            "soft_threshold" or "str", "masked", "discovering_wirings" or "dnw", "sr_ste", "top_kast", "movement",
            "soft_movement", "powerpropagation", "hashed") or a configured object such as
            `layers.VariationalDropout(log_alpha_threshold=2.0)`.
        where: Selects layers: `None` for all layers that can be sparse; a predicate, which is called for layers that
            can be sparse; or a name or regular expression, or a list of these, matched in full against the layer's name
            and against its path in the model ("encoder/attention/query"). With a structure that ties layers ("channel",
            "head", "unit"), a channel can be pruned only if all layers that share it are selected. Batch normalisation
            between these layers need not be selected, and an attention stands for its projections.
        filters: In the place of `where`, what the argument of this name means in Keras's `model.quantize`: a predicate,
            or a regular expression or a list of these, which are searched in the layer's name (`where` is matched in
            full).
        **technique_options: Options of the technique, if it is given by name.

    Returns:
        The same model. `model.sparsify_report` lists the changed layers, and the skipped layers with the reasons.

    Raises:
        ValueError: The technique or an option is unknown; no layer can be made sparse; an entry of `where` matches no
            layer, or names a layer that can't be made sparse; the structure ties layers, and the model is neither
            functional nor sequential. The model is then unchanged, and also if an initializer fails.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "vd", where=["conv", "log.*"], log_alpha_threshold=3.0)
    print(model.sparsify_report)
    ```
    """
    check_layer("model", model)
    if filters is not None:
        where = _where_of(filters, where)
    technique = get_technique(technique, **technique_options)
    selected, skipped = (_plan_tied if _ties_layers(technique) else plan)(model, technique, where)
    trainable_before = len(model.trainable_variables)
    _make_all_sparse(selected, technique)
    composite.remember_sparse_sublayers(model)
    model.sparsify_report = SparsifyReport(
        technique=technique,
        changed=tuple(
            ChangedLayer(path_of(layer), _kind(layer), sum(weight.size for weight in get_masked_parts(layer)))
            for layer in selected
        ),
        skipped=tuple(SkippedLayer(path_of(layer), reason) for layer, reason in skipped),
        notes=_structure_notes(selected)
        + _forget_compiled_functions(model, len(model.trainable_variables) != trainable_before),
    )
    if where is None:
        _warn_of_unknown_layers(skipped)
    return model


def _warn_of_unknown_layers(skipped):
    """Warns of layers of the user's own that stay dense. (Which of Keras's have a sparse form is no surprise.)"""
    own = [
        layer
        for layer, reason in skipped
        if reason.startswith(SparsifyReport.SKIP_NO_SUPPORT)
        and type(layer).__module__.partition(".")[0] not in ("keras", "sparsity_tf")
        and any(len(variable.shape) > 1 for variable in own_variables(layer))
    ]
    if own:
        weights = sum(math.prod(variable.shape) for layer in own for variable in own_variables(layer))
        warn_user(
            f"`sparsify` leaves {shorten([path_of(layer) for layer in own], 6)} dense, {weights:,} weights: "
            f"{', '.join(dict.fromkeys(type(layer).__name__ for layer in own))} has no sparse form. To write one, see "
            "docs/guides/extending.md; if it is meant, give `where`."
        )


def mask_selected(model, where, structure=None):
    """The masked weights that `where` selects. Plain layers that it selects are made masked first.

    A model without masked layers becomes masked, as by `sparsify(model, "masked", where=where)`.

    Args:
        model: Built Keras model or layer.
        where: See `sparsify`. Default: all masked weights of a model that has some.
        structure: Structure of the new masks.

    Returns:
        List of `SparseWeight`s.

    Raises:
        ValueError: See `sparsify`.
    """
    technique = TECHNIQUES["masked"](structure=structure)
    before = match_masked_weights(model)
    if not before:
        sparsify(model, technique, where=where)
        return match_masked_weights(model)
    if where is None:
        return before
    plain = match_layers(model, where, lambda layer: not isinstance(layer, SparseLayer))
    plain = [re.escape(path_of(layer)) for layer in plain if reason_to_skip(layer, technique) is None]
    other = {id(weight.variable) for weight in before}
    other.difference_update(id(weight.variable) for weight in match_masked_weights(model, where))
    if plain:
        sparsify(model, technique, where=plain)
    return [weight for weight in match_masked_weights(model) if id(weight.variable) not in other]


def _make_all_sparse(layers, technique):
    """Makes all layers sparse, or none: an initializer may fail at the shape of the last weight."""
    # Keep copies of the values, because an initial mask sets weights to zero.
    values = [(variable, ops.copy(variable)) for layer in layers for variable in layer.variables]
    try:
        for position, layer in enumerate(layers):
            make_sparse(layer, _own_copy(technique, position))
    except Exception:
        for layer in layers:
            unmake_sparse(layer)
        for variable, value in values:
            variable.assign(value)
        raise


def _own_copy(technique, position):
    """A copy of the technique for one layer. Later changes of its options concern this layer alone.

    A common seed becomes a different seed, and so different noise (or a different hash), for each layer.
    """
    own = copy.copy(technique)
    for name in technique.option_names():
        option = getattr(technique, name)
        if hasattr(option, "get_config"):
            # Copied without the registry of serialisable classes: a user's own initializer need not be in it.
            setattr(own, name, type(option).from_config(option.get_config()))
    if (technique.stochastic or technique.seed_per_layer) and technique.seed is not None:
        own.seed = technique.seed + position
    return own


def get_technique(technique, **options):
    """Looks a technique up by name or alias. A configured `Technique` is returned unchanged.

    Raises:
        ValueError: The name or an option is unknown, an option has a wrong value, or options are given beside a
            configured technique.
    """
    if isinstance(technique, Technique):
        if options:
            raise ValueError(
                f"Options must be given to the technique itself if it is an object. Received: technique={technique!r} "
                f"and {sorted(options)}"
            )
        return technique
    if not isinstance(technique, str) or technique not in TECHNIQUES:
        raise ValueError(
            f"`technique` must be one of {sorted(TECHNIQUES)}. Received: technique={technique!r}"
            f"{meant(technique, TECHNIQUES)}"
        )
    cls = TECHNIQUES[technique]
    unknown = sorted(set(options) - set(cls.option_names()))
    if unknown:
        raise ValueError(
            f"Technique {cls.name!r} has the options {list(cls.option_names())}. Received: {unknown}"
            f"{meant(unknown[0], cls.option_names())}"
        )
    return cls(**options)


def _where_of(filters, where):
    """The argument `where` that means what `filters` means in Keras's `model.quantize`."""
    if where is not None:
        raise ValueError(
            f"`where` and `filters` exclude each other: give only one of them. Received: where={where!r}, "
            f"filters={filters!r}"
        )
    if callable(filters) and not isinstance(filters, keras.layers.Layer):
        return filters
    patterns = selection_entries("filters", filters)
    return lambda layer: any(re.search(pattern, layer.name) for pattern in patterns)


def plan(model, technique, where):
    """Decides which layers `sparsify` would change. The model stays as it is.

    Args:
        model, where: See `sparsify`.
        technique: Configured `Technique`.

    Returns:
        Tuple: the list of the layers to change, and the list of the layers to skip, as pairs of a layer and the reason.

    Raises:
        ValueError: See `sparsify`.
    """
    matches, patterns = matcher(where)
    selected, skipped, used = [], [], set()
    layers = flatten_layers(model)
    parts = {id(layer): _parts(layer, technique) for layer in layers}
    owned = {id(part) for found in parts.values() for part in found}
    normalized = {id(layer.layer) for layer in layers if isinstance(layer, keras.layers.SpectralNormalization)}
    for layer in layers:
        if id(layer) in owned:
            continue
        reason = reason_to_skip(layer, technique)
        if reason is None and id(layer) in normalized and technique.name != "masked":
            reason = _NORMALIZED
        asked = (layer, *parts[id(layer)]) if reason is None or patterns else ()
        hits = tuple(hit for one in asked for hit in matches(one))
        used.update(hits)
        if reason is None and hits:
            selected.append(layer)
        elif reason is not None and any(pattern in (layer.name, path_of(layer)) for pattern in hits):
            hint = f"; select its sublayers with '{path_of(layer)}/.*'" if sublayers(layer) else ""
            raise ValueError(f"`where` names the layer {path_of(layer)!r}, which can't be made sparse: {reason}{hint}.")
        elif isinstance(layer, keras.layers.SpectralNormalization):
            continue  # The wrapper's own variable is a statistic. The layer inside has an entry of its own.
        elif any(own_variables(one) for one in (layer, *parts[id(layer)])):
            skipped.append((layer, reason or SparsifyReport.SKIP_FILTERED))
        elif _creates_sublayers_when_built(layer):
            skipped.append((layer, "not built, so its sublayers are not known: build the model first"))
    missing = [pattern for pattern in patterns if pattern not in used]
    if missing:
        raise ValueError(no_match(model, missing))
    if not selected:
        reasons = sorted({f"{path_of(layer)}: {reason}" for layer, reason in skipped})
        raise ValueError(
            f"There is no layer that technique {technique.name!r} can make sparse"
            + (f" ({shorten(reasons, 8, '; ')})" if reasons else ": is the model built?")
        )
    return selected, skipped


def _ties_layers(technique):
    return structures.get(getattr(technique, "structure", None)).ties_layers


def _plan_tied(model, technique, where):
    """`plan` for a structure that ties layers: selects all layers of the families that can be pruned."""
    matches, patterns = matcher(where)
    chosen, used = {}, set()
    for layer in flatten_layers(model):
        hits = matches(layer)
        used.update(hits)
        for one in [layer, *sublayers_meant(layer)] if hits else ():
            chosen[id(one)] = one
    missing = [pattern for pattern in patterns if pattern not in used]
    if missing:
        raise ValueError(no_match(model, missing))
    selected, reasons = {}, {}
    # Imported here and not at the top: `deploy`, which analyses graphs, lies above this module.
    from sparsity_tf.deploy.channel_families import channel_families

    for family in channel_families(model, technique.structure):
        layers = {id(layer): layer for part in family.members for layer in _layers_of(part)}
        against = {key: _reason_to_tie(layer, technique, key in chosen) for key, layer in layers.items()}
        reason = next((f"{path_of(layers[key])}: {text}" for key, text in against.items() if text), None)
        if reason is None:
            selected.update(layers)
        for key in layers:
            reasons.setdefault(key, reason and ("tied to " + reason if against[key] is None else against[key]))
    filtered = SparsifyReport.SKIP_FILTERED
    kept = f"structure={technique.structure!r} finds no {technique.structure} in it that can be removed"
    skipped = [
        (layer, (reasons.get(id(layer)) or kept) if id(layer) in chosen or id(layer) in reasons else filtered)
        for layer in flatten_layers(model)
        if id(layer) not in selected and (own_variables(layer))
    ]
    if not selected:
        texts = sorted({f"{path_of(layer)}: {reason}" for layer, reason in skipped})
        raise ValueError(
            f"There is no {technique.structure} that can be pruned in all the layers that share it "
            f"({shorten(texts, 8, '; ')})"
        )
    return [layer for layer in selected.values() if not isinstance(layer, SparseLayer)], skipped


def _layers_of(part):
    """The layer to make sparse for a part of a family. For a recurrent layer it is the layer, not its cell."""
    return [part.layer if isinstance(part.layer, keras.layers.RNN) else part.owner]


def _reason_to_tie(layer, technique, chosen):
    """The reason why a layer can't be pruned together with others, or `None`."""
    if isinstance(layer, SparseLayer) and layer.technique.name == technique.name:
        if layer.technique.structure == technique.structure:
            return None
    if (reason := reason_to_skip(layer, technique)) is not None:
        return reason
    return None if chosen or isinstance(layer, keras.layers.BatchNormalization) else SparsifyReport.SKIP_FILTERED


def _parts(layer, technique):
    """The layers that become sparse together with a layer: the cell of a recurrent layer."""
    sparse_class = LAYER_CLASSES.get((technique.name, type(layer)))
    return [getattr(layer, name) for name in sparse_class.sparse_part_names] if sparse_class else []


def reason_to_skip(layer, technique):
    """The reason why a `Technique` can't make a layer sparse, a text, or `None` if it can."""
    if isinstance(layer, SparseLayer):
        return f"{SparsifyReport.SKIP_ALREADY_SPARSE} ({layer.technique.name})"
    sparse_class = LAYER_CLASSES.get((technique.name, type(layer)))
    if sparse_class is None or not (_has_kernels(sparse_class) or _ties_layers(technique)):
        kinds = {cls for key, cls in LAYER_CLASSES if _has_kernels(LAYER_CLASSES[key, cls])}
        if type(layer) in kinds:
            return f"{SparsifyReport.SKIP_NO_SUPPORT} ({_kind(layer)} with technique {technique.name!r})"
        base = next((cls for cls in type(layer).__mro__[1:] if cls in kinds), None)
        if base is not None:
            return (
                f"{SparsifyReport.SKIP_NO_SUPPORT} (a subclass of {base.__name__} may compute something else; use or "
                "write the sparse layer itself)"
            )
        return f"{SparsifyReport.SKIP_NO_SUPPORT} ({_kind(layer)})"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"quantized ({layer.quantization_mode})"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "lora_rank", None):
        return "LoRA is enabled"
    return sparse_class.reason_against(layer)


def _has_kernels(sparse_class):
    """Whether a sparse layer has a sparse kernel, and not only a bias, gamma or beta."""
    return bool(sparse_class.sparse_weight_names or sparse_class.sparse_part_names)


def _creates_sublayers_when_built(layer):
    known = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
    unknown_class = type(layer).__module__.partition(".")[0] != "keras" and not isinstance(layer, keras.Model)
    return not layer.built and (isinstance(layer, known) or unknown_class)


def _kind(layer):
    return type(layer).__name__


def _structure_notes(layers):
    """The notes on weights that can't be as sparse as the structure says, one for each such weight."""
    weights = [weight for layer in layers for weight in get_sparse_weights(layer)]
    return tuple(f"{weight.path}: {text}" for weight in weights if (text := structures.problem(weight)) is not None)


def _forget_compiled_functions(model, has_new_variables):
    """Drops the functions that were traced with the dense layers. Returns notes for the report."""
    models = [layer for layer in flatten_layers(model) if isinstance(layer, keras.Model)]
    notes = ()
    for part in models:
        drop_functions(part)
        if has_new_variables and part.compiled and part.optimizer is not None and part.optimizer.built:
            # The optimizer has slots only for the earlier variables of the model.
            part.compiled = False
            notes += (f"Model {part.name!r} had been trained: compile it again, with a new optimizer.",)
    return notes
