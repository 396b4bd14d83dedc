"""The table of `test_arguments`: valid arguments of every public callable, and what is no nonsense for each argument.

A `Case` gives the valid arguments; an argument without an entry in `SPECS` or in the case's own `specs` is a mistake of
the table. Callables and arguments that are left out stand in `RECORDS`, `HOOKS`, each with the reason.
"""

# ruff: noqa: E501  (a table: one line a callable)

import dataclasses
import functools
import inspect
import os
import pathlib

import keras
import numpy as np

import sparsity_tf
from sparsity_tf import (
    callbacks,
    checkpoints,
    datasets,
    decoding,
    distributions,
    initializers,
    inspection,
    layers,
    masks,
    models,
    schedules,
    study,
)
from sparsity_tf.datasets.text import subwords
from sparsity_tf.distributions import budgets
from sparsity_tf.masks import structures
from tests.study.run_folders import write_run

# What each kind of argument may be among the nonsense of `test_arguments.NONSENSE`.
NUMBERS = {"half", "one_and_half", "huge_float"}
STRINGS = {"foo", "digits", "false_string", "true_string"}
ALLOWED = {
    "nothing": set(),
    "optional": {"none"},
    "any_integer": {"minus_one"},
    "number": NUMBERS | {"minus_one", "minus_half"},
    "positive": NUMBERS,
    "at_least_1": {"one_and_half", "huge_float"},
    "fraction": {"half"},
    "structure": {"none", "digits"},
    "optional_fraction": {"none", "half"},
    "bool": {"true"},
    "optional_bool": {"none", "true"},
    "string": STRINGS,
    "label": STRINGS | {"empty_string"},
    "path": STRINGS,
    "optional_path": STRINGS | {"none"},
    "initializer": {"none"},
    "activation": {"none", "layer"},
    "model_or_layer": {"layer"},
    "dense_tensors": {"none", "empty_list", "empty_tuple"},
    "number_or_initializer": NUMBERS | {"none", "minus_one", "minus_half"},
    "array": NUMBERS | {"minus_one", "minus_half", "true"},
    "where": {"none"},
    "anything": None,
}
# The kind of argument by its name, where a case doesn't say otherwise.
SPECS = {
    **dict.fromkeys(
        "units num_heads num_spaces space begin_step decay_steps size count filters kernel_size input_dim output_dim "
        "max_filters max_frames batch_size window first_step shift_pixels first_epoch held_out batch_tokens max_length "
        "eval_batch_tokens eval_max_length replicas vocabulary_size hidden_size depth num_classes beam_size "
        "extra_length num_results end_id length num_target_spaces target_space rounds steps_per_round rewind_step "
        "frequency image_size shuffle_buffer parallel_reads pixels variant technique mode cell kind scope model layer "
        "data files corpus vocabulary dtype normalize augment recipe too_long eval_too_long pad_to size convention assignment "
        "batch_norm spatial_mask quarters input_shape image_shape shape drop grow redistribution every verbose "
        "threshold_function granularity axis draw layer_or_model dataset table dense sparse boundaries values tensors "
        "model_or_table n m k max_texts texts split budget labels hidden inputs identifier loss".split(),
        "nothing",
    ),
    **dict.fromkeys(
        "seed structure regularizer eval_batch_size eval_characters input_rank recurrent_rank end_step "
        "num_classes_or_none data_format threshold_regularizer classifier".split(),
        "optional",
    ),
    **dict.fromkeys("initial final constant floor log_alpha_threshold low high".split(), "number"),
    **dict.fromkeys(
        "rate scale beta frames_per_second penalty_weight lp_penalty width alpha weight snr_threshold gain_l2".split(),
        "positive",
    ),
    **dict.fromkeys("decay sparsity dropout attention_dropout relu_dropout drop_fraction".split(), "fraction"),
    **dict.fromkeys("dropped_share final_sparsity".split(), "fraction"),
    **dict.fromkeys(
        "staircase gains causal split_heads packed cached reverse include_dense free_parameters dense_gradient "
        "mask_in_training share_noise byte_fallback stop_early cumulative signed validation_stratified signs "
        "spatial_bottleneck affine".split(),
        "bool",
    ),
    **dict.fromkeys("flash_attention zero_gamma dense_inference".split(), "optional_bool"),
    **dict.fromkeys("source_language target_language patterns".split(), "string"),
    "path": "path",
    **dict.fromkeys("data_dir cache_dir csv_path log_dir snapshot".split(), "optional_path"),
    **dict.fromkeys(
        "kernel_initializer bias_initializer initializer kernel_regularizer gain_regularizer".split(), "initializer"
    ),
    **dict.fromkeys("activation recurrent_activation".split(), "activation"),
    **dict.fromkeys(
        "mask_initializer log_alpha_initializer log_sigma2_initializer threshold_initializer mu_initializer "
        "group_log_sigma2_initializer "
        "log_sigma_initializer".split(),
        "number_or_initializer",
    ),
    **dict.fromkeys("zeta_initializer nu_initializer".split(), "number"),
    **dict.fromkeys("initial_threshold power target_magnitude temperature prune_target".split(), "positive"),
    **dict.fromkeys("redistribution ramp_step".split(), "optional"),
    "num_examples": "nothing",
    "dense": "dense_tensors",
    "structure": "structure",
    "where": "where",
    "distribution": "nothing",
    "schedule": "nothing",
}


def is_lambda(value):
    return inspect.isfunction(value) and value.__name__ == "<lambda>"


@dataclasses.dataclass
class Case:
    """A call that works: the callable, its valid arguments, and what their kinds are where `SPECS` is wrong."""

    call: object
    valid: object = dict
    specs: dict = dataclasses.field(default_factory=dict)

    def argument_names(self):
        return list(self.valid() if callable(self.valid) else self.valid)

    def arguments(self):
        valid = self.valid() if callable(self.valid) else self.valid
        made = {
            id(function)
            for function in (net, sparse_net, _image_data, _corpus, _labelled, _reader, _transformer, _checkpoint)
        }
        lazy = {name for name, value in valid.items() if id(value) in made or is_lambda(value)}
        return {name: value() if name in lazy else value for name, value in valid.items()}


def net():
    return keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3, activation="relu", name="conv"),
                             keras.layers.Flatten(), keras.layers.Dense(3, name="dense")])  # fmt: skip


def _reader():
    return keras.Sequential([keras.Input((6,), dtype="int32"), keras.layers.Embedding(5, 2, name="embedding")])


def sparse_net(technique="masked"):
    return sparsity_tf.sparsify(net(), technique)


def _study_file():
    path = pathlib.Path(os.getcwd()) / "study.toml"
    path.write_text('program = "classifier"\nconfig = "lenet300_magnitude"\n[settings]\nvalidation_split = 0.1\n')
    return str(path)


def _study():
    return study.Study("empty", "classifier", methods=(), seeds=(0,), metric="val_error")


def _study_table():
    figures = {"validation": 0.021, "validation_error": None, "test": 0.019, "test_error": None, "sparsity": 0.9}
    costs = {"macs": 26620, "dense_macs": 266200, "seconds": 12.5, "provisional": False}
    return study.StudyTable([study.StudyRow("rigl", {}, {}, 1, 1, 1, 0, **figures, **costs)], "val_error")


_BASELINES = "state_of_sparsity/sparse_transformer/technique_comparison/transformer_baselines.csv"
_OF_RUNS = {
    "folder": "path",
    "runs": "dense_tensors",
    "published": "dense_tensors",
    "sparsity_of": "nothing",
    "x": "nothing",
    "levels": "optional",
    "worst_score": "number_or_initializer",
    "title": "optional_path",
}


def _width_run():
    folder = pathlib.Path(os.getcwd()) / "finished_run_of_a_width"
    if not folder.exists():
        write_run(folder, test_error=0.1, sparsity=0.9, model="vgg_like", model_options={"width": 0.5})
    return str(folder)


def _run_folder():
    folder = pathlib.Path(os.getcwd()) / "finished_run"
    if not folder.exists():
        write_run(folder, test_error=0.02, sparsity=0.9)
    return str(folder)


@functools.cache
def _table(kind):
    if kind == "speedup":
        return inspection.SpeedupTable([inspection.SpeedupRow("a", 1, 1.0, 0.5, 0.5)])
    if kind == "sensitivity":
        return inspection.SensitivityTable([inspection.SensitivityRow("a", 4, (2,), (0.5,))], (0.5,), "loss", 1.0)
    sums = np.random.default_rng(0).random((2, 6, 3))
    return inspection.FeatureTable(
        inspection.FeatureRow(name, rows, 1.0) for name, rows in zip("ab", sums, strict=True)
    )


@functools.cache
def _deployment_report():
    row = sparsity_tf.deploy.DeploymentRow("keras", "sparse", 10, 100, {1: 1.0}, {1: 0.9})
    return sparsity_tf.deploy.DeploymentReport([row], [], 0.9, (100, 50), (1,))


@functools.cache
def _image_data():
    images, labels = np.zeros((20, 8, 8), "uint8"), np.zeros(20, "uint8")
    return datasets.ImageData(images, labels, images, labels, 10, "mnist", "zeros")


@functools.cache
def _sequence_data():
    x, y = np.zeros((20, 4, 3), "float32"), np.zeros(20, "uint8")
    return datasets.SequenceData(x, y, x, y, 2, "har2", "zeros")


def _corpus():
    ids = np.arange(60, dtype="int32") % 5
    return datasets.CharacterCorpus(ids, ids, ids, tuple("abcde"), {}, "letters")


WORD_IDS = {"<padding>": 0, "<unknown>": 1, "a": 2}


@functools.cache
def _labelled_file():
    path = pathlib.Path(os.getcwd()) / "labelled.tsv"
    path.write_text("".join(f"{'good' if n % 2 else 'bad'}\tword{n} a\n" for n in range(20)))
    return str(path)


def _labelled():
    return datasets.labelled_text(_labelled_file(), held_out=0.2)


@functools.cache
def _pairs():
    path = pathlib.Path(os.getcwd()) / "pairs.tsv"
    path.write_text("a b\tc d\n" * 40)
    return str(path)


@functools.cache
def _transformer():
    return models.Transformer(12, 1, 4, 4, 1, name="translator")


@functools.cache
def _checkpoint():
    path = str(pathlib.Path(os.getcwd()) / "net.keras")
    sparse_net().save(path)
    return path


TENSORS = [distributions.TensorSpec("a", (4, 3)), distributions.TensorSpec("b", (3, 2))]
STEPS = {"begin_step": 0, "end_step": 10}
STOCK = {
    "BatchNormalization": {},
    "Dense": {"units": 2},
    "EinsumDense": {"equation": "ab,bc->ac", "output_shape": 2},
    "Conv1D": {"filters": 2, "kernel_size": 2},
    "Conv2D": {"filters": 2, "kernel_size": 2},
    "Conv3D": {"filters": 2, "kernel_size": 2},
    **dict.fromkeys(
        [
            "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "SeparableConv1D", "SeparableConv2D", "ConvLSTM1D",
            "ConvLSTM2D", "ConvLSTM3D",
        ],
        {"filters": 2, "kernel_size": 2},
    ),
    "ConvLSTMCell": {"rank": 2, "filters": 2, "kernel_size": 2},
    "DepthwiseConv1D": {"kernel_size": 2},
    "DepthwiseConv2D": {"kernel_size": 2},
    "Embedding": {"input_dim": 3, "output_dim": 2},
    "ReversibleEmbedding": {"input_dim": 3, "output_dim": 2},
}  # fmt: skip
OPTIONS = {
    "masked": {"mask_initializer": "ones", "dense_gradient": False, "structure": None},
    "variational_dropout": {
        "log_sigma2_initializer": -10.0, "clip_log_alpha": 8.0, "log_alpha_threshold": 3.0, "mask_in_training": False,
        "share_noise": False, "penalty_weight": 0.0, "seed": 0,
    },
    "group_variational_dropout": {
        "groups": ("word", "gate"), "log_sigma2_initializer": -6.0, "group_log_sigma2_initializer": -6.0,
        "clip_log_alpha": 8.0, "log_alpha_threshold": 3.0, "penalty_weight": 0.0, "seed": 0,
    },
    "l0": {
        "log_alpha_initializer": 2.0, "beta": 0.6, "gamma": -0.1, "zeta": 1.1, "penalty_weight": 0.0, "seed": 0,
    },
    "soft_threshold": {
        "threshold_function": "sigmoid", "granularity": "layer", "threshold_initializer": -10.0,
        "threshold_regularizer": None,
    },
    "discovering_wirings": {"sparsity": 0.9},
    "hashed": {"compression": 8.0, "assignment": "hash", "signs": True, "seed": 0},
    "sr_ste": {"structure": "2:4", "decay": 2e-4},
    "top_kast": {"sparsity": 0.9, "exploration": 0.1, "l2": 5e-5},
    "powerpropagation": {"alpha": 2.0, "mask_initializer": "ones", "structure": None},
    "movement": {"initial_sparsity": 0.0, "scores_initializer": 0.0},
    "soft_movement": {
        "score_threshold": 0.1, "least_live": 0.005, "scores_initializer": 0.0, "penalty_weight": 0.0,
    },
    "structured_bayesian": {
        "mu_initializer": 0.0, "log_sigma_initializer": -5.0, "axis": "output", "draw": "batch",
        "low": -20.0, "high": 0.0, "snr_threshold": 1.0, "penalty_weight": 0.0, "seed": 0,
    },
}  # fmt: skip
OPTION_SPECS = {
    "clip_log_alpha": "optional_clip",
    "groups": "group_names",
    "gamma": "negative",
    "zeta": "at_least_1",
    "penalty_weight": "positive",
    "decay": "positive",
    "exploration": "fraction",
    "l2": "positive",
    "alpha": "exponent",
    "initial_sparsity": "fraction",
    "score_threshold": "fraction",
    "least_live": "fraction",
    "scores_initializer": "number_or_initializer",
    "compression": "at_least_1",
}
ALLOWED |= {
    "exponent": {"one_and_half", "huge_float"},
    "optional_clip": {"none", "half", "one_and_half"},
    "optional_norm": {"none", "half", "one_and_half", "huge_float"},
    "group_names": {"empty_list", "empty_tuple"},
    "word_ids": {"range"},
    "word_texts": {"empty_list", "empty_tuple", "string_array", "empty_array"},
    "negative": {"minus_one", "minus_half"},
}
GRNN = {
    "units": 2, "input_rank": 1, "recurrent_rank": 1, "gains": True, "activation": "tanh",
    "recurrent_activation": "sigmoid", "kernel_initializer": None, "bias_initializer": "ones", "zeta_initializer": 1.0,
    "nu_initializer": -4.0, "kernel_regularizer": None, "gain_regularizer": None,
}  # fmt: skip

CASES = {
    "layers.SparseActivation": Case(
        layers.SparseActivation,
        {"mode": "static", "density": 0.5, "dense_inference": None, "lp_penalty": 0.0, "p": 1, "data_format": None, "seed": 0},
        {"density": "fraction", "p": "at_least_1"},
    ),
    "layers.SparseBatchNormalization": Case(layers.SparseBatchNormalization, {"sparse_activation": "static"}, {"sparse_activation": "optional"}),
    "layers.SparseWeight": Case(lambda layer, name: layers.SparseWeight(layer, name), lambda: {"layer": sparse_net().layers[0], "name": "kernel"}, {"name": "nothing"}),
    "layers.SparseWeight.assign_mask": Case(lambda mask: layers.get_sparse_weights(sparse_net())[0].assign_mask(mask), {"mask": np.ones((3, 3, 1, 2))}, {"mask": "nothing"}),
    "layers.Hashed.bank_size": Case(layers.Hashed().bank_size, {"size": 5}),
    "layers.flatten_layers": Case(layers.flatten_layers, {"model": net}, {"model": "model_or_layer"}),
    "layers.get_masked_parts": Case(layers.get_masked_parts, {"model": net}, {"model": "model_or_layer"}),
    "layers.get_penalty_weights": Case(layers.get_penalty_weights, {"model": net}, {"model": "model_or_layer"}),
    "layers.get_sparse_weights": Case(layers.get_sparse_weights, {"model": net}, {"model": "model_or_layer"}),
    "layers.FastGRNN": Case(layers.FastGRNN, GRNN),
    "layers.FastGRNNCell": Case(layers.FastGRNNCell, GRNN),
    "layers.fold_rank": Case(layers.fold_rank, lambda: {"layer": _built_grnn()}),
    "layers.after_build": Case(layers.after_build, lambda: {"layer": net(), "function": print}, {"function": "function", "layer": "model_or_layer"}),
    "layers.make_plain": Case(layers.make_plain, lambda: {"layer": sparse_net().layers[0]}),
    "layers.make_sparse": Case(layers.make_sparse, lambda: {"layer": net().layers[0], "technique": layers.Masked()}, {"layer": "model_or_layer"}),
    "layers.unmake_sparse": Case(layers.unmake_sparse, lambda: {"layer": net().layers[0]}, {"layer": "model_or_layer"}),
    "models.DotProductAttention": Case(models.DotProductAttention, {"num_heads": 1, "causal": False, "dropout": 0.1, "flash_attention": None, "seed": 0}),
    "models.FastDropout": Case(models.FastDropout, {"rate": 0.1, "noise_shape": None, "seed": 0}, {"rate": "fraction", "noise_shape": "optional"}),
    "models.TargetSpace": Case(models.TargetSpace, {"num_spaces": 2, "space": 0}),
    "schedules.Constant": Case(schedules.Constant, {"constant": 1.0}),
    "schedules.Polynomial": Case(schedules.Polynomial, {"initial": 0.0, "final": 1.0, **STEPS, "power": 2.0}, {"power": "positive", "end_step": "nothing"}),
    "schedules.Cubic": Case(schedules.Cubic, {"initial": 0.0, "final": 1.0, **STEPS}, {"end_step": "nothing"}),
    "schedules.Linear": Case(schedules.Linear, {"initial": 0.0, "final": 1.0, **STEPS}, {"end_step": "nothing"}),
    "schedules.Cosine": Case(schedules.Cosine, {"initial": 1.0, **STEPS, "floor": 0.0}, {"end_step": "nothing"}),
    "schedules.Exponential": Case(schedules.Exponential, {"initial": 1.0, "rate": 0.5, "decay_steps": 2, "begin_step": 0, "staircase": False}),
    "schedules.Piecewise": Case(schedules.Piecewise, {"boundaries": (1,), "values": (0.0, 1.0)}),
    "schedules.ExponentialMovingAverage": Case(schedules.ExponentialMovingAverage, {"schedule": 1.0, "decay": 0.5}, {"schedule": "number"}),
    "schedules.serialize": Case(schedules.serialize, {"schedule": schedules.Constant(1.0)}),
    "schedules.get": Case(schedules.get, {"identifier": 1.0}, {"identifier": "number"}),
    "schedules.of_argument": Case(lambda identifier: schedules.of_argument("identifier", identifier), {"identifier": 1.0}, {"identifier": "number"}),
    "schedules.Schedule.__call__": Case(lambda step: schedules.Linear(0.0, 1.0, 0, 10)(step), {"step": 3}, {"step": "nothing"}),
    "distributions.TensorSpec": Case(distributions.TensorSpec, {"path": "a", "shape": (2, 3)}, {"path": "string", "shape": "nothing"}),
    "distributions.ErdosRenyiKernel": Case(distributions.ErdosRenyiKernel, {"power": 1.0}, {"power": "at_most_10"}),
    "distributions.PerLayer": Case(distributions.PerLayer, {"sparsities": {"a": 0.5}, "default": 0.5}, {"sparsities": "empty_dict", "default": "optional_fraction"}),
    "distributions.get": Case(lambda distribution: distributions.get(distribution), {"distribution": "erk"}),
    "distributions.allocate": Case(distributions.allocate, {"tensors": TENSORS, "sparsity": 0.5, "distribution": "erk", "dense": None}, {"dense": "dense_tensors"}),
    "distributions.exact_sparsity": Case(distributions.exact_sparsity, {"sparsity": 0.5, "size": 4}),
    "distributions.Distribution.__call__": Case(lambda tensors, sparsity: distributions.Uniform()(tensors, sparsity), {"tensors": TENSORS, "sparsity": 0.5}),
    "distributions.budgets.Budget": Case(budgets.Budget, {"sparsities": {"a": 0.5}, "sizes": {"a": 4}}, {"sparsities": "nothing", "sizes": "optional"}),
    "distributions.budgets.Budget.match": Case(lambda tensors: budgets.Budget({"a": 0.5, "b": 0.5}).match(tensors), {"tensors": TENSORS}),
    "distributions.budgets.Budget.entries": Case(lambda tensors: budgets.Budget({"a": 0.5, "b": 0.5}).entries(tensors), {"tensors": TENSORS}),
    "inspection.sparsity_budget": Case(inspection.sparsity_budget, {"model": sparse_net}),
    "distributions.budgets.write_csv": Case(budgets.write_csv, {"path": "budget.csv", "budget": {"a": 0.5}}),
    "distributions.budgets.write_str_csv": Case(budgets.write_str_csv, {"path": "str.csv", "budget": budgets.Budget({"a": 0.5}, {"a": 4}), "flops": {"a": 1}, "pooling": None}, {"flops": "optional", "pooling": "optional_dict"}),
    "layers.set_sparsities": Case(layers.set_sparsities, lambda: {"model": sparse_net("dnw"), "distribution": "erk", "sparsity": 0.5}),
    "distributions.budgets.read_csv": Case(budgets.read_csv, lambda: {"path": _budget_file(), "column": None}, {"column": "optional"}),
    "masks.structures.get": Case(structures.get, {"structure": None}),
    "masks.structures.Blocks": Case(structures.Blocks, {"shape": (2, 1)}),
    "masks.structures.NM": Case(structures.NM, {"n": 2, "m": 4}),
    "masks.structures.Elements.keep_highest": Case(lambda scores, sparsity: structures.get(None).keep_highest(scores, sparsity), {"scores": np.ones((2, 3)), "sparsity": 0.5}, {"scores": "scores"}),
    "masks.structures.NM.keep_highest": Case(lambda scores, sparsity: structures.get("2:4").keep_highest(scores, sparsity), {"scores": np.ones((4, 3)), "sparsity": 0.5}, {"scores": "scores"}),
    "masks.number_of_zeros": Case(masks.number_of_zeros, {"sparsity": 0.5, "size": 4}),
    "masks.number_to_keep": Case(masks.number_to_keep, {"sparsity": 0.5, "size": 4}),
    "masks.highest": Case(masks.highest, {"scores": np.arange(6.0).reshape(2, 3), "count": 0, "among": None, "by": np.abs}, {"scores": "scores", "among": "candidates", "by": "optional_function"}),
    "masks.highest_overall": Case(masks.highest_overall, {"scores": [np.ones(3)], "count": 0, "among": None, "by": np.abs}, {"scores": "list_of_scores", "among": "list_of_candidates", "by": "optional_function"}),
    "masks.random_mask": Case(masks.random_mask, {"shape": (2, 3), "count": 1, "rng": np.random.default_rng(0), "among": None}, {"rng": "nothing", "among": "candidates"}),
    "masks.top_k_mask": Case(masks.top_k_mask, {"scores": np.ones(4, "float32"), "k": 2}, {"scores": "traced_scores", "k": "any_integer"}),
    "inspection.MaskAnimation": Case(inspection.MaskAnimation, lambda: {"layer": net().layers[0], "max_filters": 1, "max_frames": 2}, {"layer": "model_or_layer"}),
    "inspection.MaskAnimation.capture": Case(lambda label: inspection.MaskAnimation(net().layers[0]).capture(label), {"label": "a"}, {"label": "label"}),
    "inspection.MaskAnimation.save_gif": Case(lambda path, frames_per_second: _film().save_gif(path, frames_per_second), {"path": "film.gif", "frames_per_second": 8}),
    "inspection.SparsityTable.to_csv": Case(lambda path: inspection.sparsity_table(net()).to_csv(path), {"path": "table.csv"}),
    "inspection.SparsityTable.summary_table": Case(lambda free_parameters: inspection.sparsity_table(net()).summary_table(free_parameters), {"free_parameters": True}),
    "inspection.class_specialization": Case(inspection.class_specialization, lambda: {"model": net(), "data": (np.ones((2, 6, 6, 1), "float32"), np.array([0, 1])), "where": None, "num_classes": 3, "dropped_share": 0.1}, {"num_classes": "optional", "data": "numbers"}),
    "inspection.count_flops": Case(inspection.count_flops, lambda: {"model": net(), "convention": "mac", "input_shape": (6, 6, 1)}, {"input_shape": "shape_or_scalar", "model": "model_or_layer"}),
    "inspection.estimate_speedup": Case(inspection.estimate_speedup, lambda: {"model": net(), "data": np.ones((2, 6, 6, 1), "float32"), "where": None}, {"data": "numbers"}),
    "inspection.plot_class_specialization": Case(inspection.plot_class_specialization, lambda: {"dense": _table("features"), "sparse": _table("features"), "path": None, "labels": ("a", "b")}, {"path": "optional_path", "dense": "nothing"}),
    "inspection.plot_filters": Case(inspection.plot_filters, lambda: {"layer": net().layers[0], "path": None, "max_filters": 4}, {"path": "optional_path"}),
    "inspection.plot_input_mask": Case(inspection.plot_input_mask, lambda: {"layer_or_model": net(), "image_shape": (4, 4, 2), "path": None}, {"path": "optional_path"}),
    "inspection.plot_layer_sparsity": Case(inspection.plot_layer_sparsity, lambda: {"model_or_table": net(), "path": None}, {"path": "optional_path"}),
    "inspection.plot_speedup": Case(inspection.plot_speedup, lambda: {"table": _table("speedup"), "path": None}, {"path": "optional_path"}),
    "inspection.SensitivityTable.to_csv": Case(lambda path: _table("sensitivity").to_csv(path), {"path": "sensitivity.csv"}),
    "inspection.SensitivityTable.plot": Case(lambda path: _table("sensitivity").plot(path), {"path": None}, {"path": "optional_path"}),
    "inspection.sensitivity": Case(inspection.sensitivity, lambda: {"model": net(), "data": (np.ones((2, 6, 6, 1), "float32"), np.array([0, 1])), "sparsities": (0.5,), "metric": "sparse_categorical_accuracy", "structure": None, "where": None, "batch_size": 2}, {"model": "model_or_layer", "metric": "nothing", "sparsities": "nothing"}),
    "study.published_results": Case(study.published_results, {"system": "str", "model": None, "dataset": None, "technique": None, "sparsity": None, "metric": None}, {**dict.fromkeys("system model dataset technique metric".split(), "optional"), "sparsity": "optional_fraction"}),
    "study.read_state_of_sparsity": Case(study.read_state_of_sparsity, lambda: {"path": study.published_files()[_BASELINES]}),
    "study.read_run": Case(study.read_run, lambda: {"folder": _run_folder(), "sparsity_of": "kernels"}, _OF_RUNS),
    "study.read_runs": Case(study.read_runs, lambda: {"runs": [_run_folder()], "sparsity_of": "kernels"}, _OF_RUNS),
    "study.tradeoff_table": Case(study.tradeoff_table, lambda: {"published": study.published_results("str", "ResNet-50"), "runs": [_run_folder()], "levels": None, "sparsity_of": "kernels"}, _OF_RUNS),
    "study.plot_tradeoff": Case(study.plot_tradeoff, lambda: {"published": study.published_results("str", "ResNet-50"), "runs": [_run_folder()], "x": "sparsity", "levels": None, "worst_score": None, "sparsity_of": "kernels", "title": None, "path": None}, {**_OF_RUNS, "path": "optional_path"}),
    "study.plot_widths": Case(study.plot_widths, lambda: {"runs": [_width_run()], "sparsity_of": "kernels", "title": None, "path": None}, {**_OF_RUNS, "path": "optional_path"}),
    "study.read_study": Case(study.read_study, lambda: {"path": _study_file()}),
    "study.RayOptions": Case(study.RayOptions, {"address": None, "cpus": 1, "gpus": 0.5, "asha": False}, {"cpus": "positive", "gpus": "positive", "asha": "bool", "address": "optional_path"}),
    "study.run_study": Case(study.run_study, lambda: {"study": _study(), "folder": "study", "jobs": 1, "engine": "local", "retries": 0, "ray": None}, {"study": "nothing", "folder": "path", "jobs": "nothing", "engine": "nothing", "retries": "nothing", "ray": "optional"}),
    "study.study_table": Case(study.study_table, lambda: {"study": _study(), "folder": "study", "everything": False}, {"study": "nothing", "folder": "path", "everything": "bool"}),
    "study.plot_study": Case(study.plot_study, lambda: {"table": _study_table(), "x": "sparsity", "published": None, "worst_score": None, "title": None, "path": None, "methods": None}, {**_OF_RUNS, "path": "optional_path"}),
    "study.StudyTable.to_csv": Case(lambda path: _study_table().to_csv(path), {"path": "study.csv"}),
    "callbacks.serialize": Case(callbacks.serialize, {"callback": lambda: callbacks.MagnitudePruning(0.5)}, {"callback": "nothing"}),
    "callbacks.deserialize": Case(callbacks.deserialize, {"config": {"class_name": "SET", "config": {"sparsity": 0.5}}}, {"config": "nothing"}),
    "study.TradeoffTable.to_csv": Case(lambda path: study.tradeoff_table(study.published_results("str", "ResNet-50")).to_csv(path), {"path": "tradeoff.csv"}),
    "prune.prune": Case(sparsity_tf.prune, lambda: {"model": net(), "sparsity": 0.5, "by": "taylor", "data": (np.ones((2, 6, 6, 1), "float32"), np.array([0, 1])), "loss": "sparse_categorical_crossentropy", "scope": "layer", "distribution": "uniform", "structure": None, "where": None, "dense": None, "seed": 0, "target_flops": None, "target_parameters": None}, {"model": "model_or_layer", "by": "nothing", "scope": "optional", "dense": "dense_tensors", "seed": "nothing", "target_flops": "optional", "target_parameters": "optional"}),
    "refresh_statistics.refresh_statistics": Case(sparsity_tf.refresh_statistics, lambda: {"model": _normalised(), "data": np.ones((2, 3), "float32"), "batch_size": 2}, {"data": "numbers"}),
    "inspection.mask_to_braille": Case(inspection.mask_to_braille, {"mask": np.ones((4, 2)), "axes": (0, 1), "width": None}, {"mask": "matrix_with_entries", "axes": "nothing", "width": "optional"}),
    "inspection.sparsity_table": Case(inspection.sparsity_table, lambda: {"model": net(), "include_dense": False}),
    "inspection.specialization_anova": Case(inspection.specialization_anova, lambda: {"dense": _table("features"), "sparse": _table("features")}, {"dense": "nothing"}),
    "initializers.PerLayerScaled": Case(initializers.PerLayerScaled, {"sparsity": 0.5, "scale": 1.0, "mode": "fan_in", "distribution": "uniform", "seed": 0, "input_axes": (-2,), "output_axes": (-1,)}, {"input_axes": "nothing", "output_axes": "nothing"}),
    "initializers.PerUnitScaled": Case(initializers.PerUnitScaled, {"mask": np.ones((2, 3)), "scale": 1.0, "mode": "fan_in", "distribution": "uniform", "seed": 0, "input_axes": (-2,), "output_axes": (-1,)}, {"mask": "matrix", "input_axes": "nothing", "output_axes": "nothing"}),
    "initializers.ScaledConstant": Case(initializers.ScaledConstant, {"signed": True, "sparsity": 0.5, "scale": 2.0, "mode": "fan_in", "seed": 0}),
    **{
        f"initializers.{name}": Case(getattr(initializers, name), {"sparsity": 0.5, "seed": 0})
        for name in ("SparseGlorotUniform", "SparseHeNormal", "SparseEmbeddingNormal")
    },
    "initializers.reinitialize": Case(initializers.reinitialize, lambda: {"model": sparse_net(), "kind": "per_unit", "initializer": "he_normal", "seed": 0}, {"initializer": "optional"}),
    "datasets.random_labels": Case(datasets.random_labels, {"data": _image_data, "kind": "permuted", "seed": 0}, {"seed": "nothing"}),
    "datasets.array_batches": Case(datasets.array_batches, {"data": _image_data, "batch_size": 4, "normalize": "none", "augment": "none", "pixels": 2, "validation_split": 0.1, "eval_batch_size": 4, "seed": 0, "dtype": "float32", "validation_stratified": False}, {"seed": "nothing", "validation_split": "fraction"}),
    "datasets.sequence_batches": Case(datasets.sequence_batches, {"data": lambda: _sequence_data(), "batch_size": 4, "validation_split": 0.1, "eval_batch_size": 4, "seed": 0, "dtype": "float32", "validation_stratified": False}, {"seed": "nothing", "validation_split": "fraction"}),
    "datasets.CharacterBatches": Case(datasets.CharacterBatches, {"corpus": _corpus, "batch_size": 2, "window": 3, "seed": 0, "eval_batch_size": 2, "eval_characters": 5}, {"seed": "nothing"}),
    "datasets.CharacterBatches.train": Case(lambda first_step: datasets.CharacterBatches(_corpus(), 2, 3).train(first_step), {"first_step": 0}),
    "datasets.character_corpus": Case(datasets.character_corpus, {"data_dir": None, "vocabulary_size": 50, "held_out": 0.05}, {"vocabulary_size": "optional", "held_out": "nothing"}),
    "datasets.LabelledBatches": Case(datasets.LabelledBatches, {"text": _labelled, "batch_size": 2, "length": 3, "seed": 0, "eval_batch_size": 2}, {"text": "nothing", "seed": "nothing"}),
    "datasets.LabelledBatches.train": Case(lambda first_step: datasets.LabelledBatches(_labelled(), 2, 3).train(first_step), {"first_step": 0}),
    "datasets.labelled_text": Case(datasets.labelled_text, lambda: {"data_dir": _labelled_file(), "vocabulary_size": 5, "min_count": 1, "held_out": 0.2, "split_seed": 0}, {"vocabulary_size": "optional", "min_count": "nothing", "split_seed": "nothing", "data_dir": "path"}),
    "datasets.WordVocabulary": Case(datasets.WordVocabulary, {"ids": WORD_IDS}, {"ids": "nothing"}),
    "datasets.WordVocabulary.encode": Case(lambda text: datasets.WordVocabulary(WORD_IDS).encode(text), {"text": "a b"}, {"text": "label"}),
    "datasets.WordVocabulary.renumbered": Case(lambda ids: datasets.WordVocabulary(WORD_IDS).renumbered(ids), {"ids": np.array([0, 1, 1])}, {"ids": "word_ids"}),
    "datasets.WordVocabulary.save": Case(lambda path: datasets.WordVocabulary(WORD_IDS).save(path), {"path": "words.tsv"}),
    "datasets.word_vocabulary": Case(datasets.word_vocabulary, {"texts": ["a b"], "size": 3, "min_count": 1}, {"texts": "word_texts", "size": "optional", "min_count": "nothing"}),
    **{f"datasets.{name}": Case(getattr(datasets, name), {"data_dir": None}) for name in ("cifar10", "cifar100", "fashion_mnist", "mnist")},
    **{f"datasets.{name}": Case(getattr(datasets, name), {"data_dir": "missing"}, {"data_dir": "path"}) for name in ("google12", "har2", "tiny_imagenet")},
    "datasets.imagenet": Case(datasets.imagenet, {"data_dir": ".", "num_classes": 3}, {"num_classes": "optional"}),
    "datasets.file_batches": Case(datasets.file_batches, {"files": lambda: datasets.ImageFiles(_split(), _split(), 3, "a", "b"), "batch_size": 2, "recipe": "str", "image_size": 8, "eval_batch_size": 2, "seed": 0, "dtype": "float32", "shuffle_buffer": 2, "parallel_reads": 2}, {"seed": "nothing"}),
    "datasets.read_idx": Case(datasets.read_idx, {"path": "missing"}),
    "datasets.parallel_corpus": Case(datasets.parallel_corpus, lambda: {"dataset": "tsv", "data_dir": _pairs(), "source_language": "en", "target_language": "de", "reverse": False, "held_out": 5}),
    "datasets.translation_batches": Case(datasets.translation_batches, lambda: {"corpus": datasets.parallel_corpus("tsv", _pairs(), held_out=5), "vocabulary": _Letters(), "batch_tokens": 64, "max_length": 16, "packed": False, "too_long": "drop", "eval_batch_tokens": 64, "eval_max_length": 16, "eval_too_long": "error", "bucket_growth": 1.1, "pad_to": "bucket", "replicas": 1, "cache_dir": None, "seed": 0}, {"seed": "nothing", "bucket_growth": "at_least_1"}),
    "datasets.text.subwords.load": Case(subwords.load, {"path": "missing"}),
    "datasets.text.subwords.train": Case(subwords.train, {"texts": ["a b"] * 9, "path": "vocabulary.model", "size": 300, "kind": "bpe", "character_coverage": 0.9, "byte_fallback": True, "max_texts": 10, "seed": 0}, {"seed": "nothing", "character_coverage": "fraction", "texts": "texts"}),
    "decoding.Decoder": Case(decoding.Decoder, {"model": _transformer, "cached": True}),
    "decoding.Decoder.beam_search": Case(lambda **arguments: decoding.Decoder(_transformer()).beam_search(**arguments), {"inputs": np.array([[2, 1]]), "beam_size": 2, "alpha": 0.6, "extra_length": 1, "num_results": 1, "end_id": 1}),
    "decoding.Decoder.greedy": Case(lambda **arguments: decoding.Decoder(_transformer()).greedy(**arguments), {"inputs": np.array([[2, 1]]), "extra_length": 1, "end_id": 1}),
    "decoding.beam_search": Case(decoding.beam_search, lambda: {"next_logits": _logits, "cache": (), "limits": keras.ops.ones((1,), "int32"), "length": 1, "beam_size": 1, "alpha": 0.6, "end_id": 1, "stop_early": True}, {"next_logits": "function_of_five", "cache": "anything", "limits": "nothing"}),
    "decoding.greedy_search": Case(decoding.greedy_search, lambda: {"next_logits": _logits, "cache": (), "limits": keras.ops.ones((1,), "int32"), "length": 1, "end_id": 1}, {"next_logits": "function_of_five", "cache": "anything", "limits": "nothing"}),
    "checkpoints.checkpoint_sparsity": Case(checkpoints.checkpoint_sparsity, {"path": _checkpoint, "technique": "auto", "log_alpha_threshold": None, "picture_width": None}, {"log_alpha_threshold": "optional_number", "picture_width": "optional"}),
    "checkpoints.open_checkpoint": Case(checkpoints.open_checkpoint, {"path": _checkpoint}),
    "checkpoints.CheckpointSparsity.to_json": Case(lambda indent: checkpoints.CheckpointSparsity("a", ()).to_json(indent), {"indent": 2}, {"indent": "optional"}),
    "sparsify.sparsify": Case(sparsity_tf.sparsify, {"model": net, "technique": "masked", "where": None}, {"model": "model_or_layer"}),
    "sparsify.get_technique": Case(lambda technique: _module("sparsify").get_technique(technique), {"technique": "masked"}),
    "deploy.shipping_gain": Case(lambda model: _module("deploy").shipping_gain(model), {"model": net}),
    "deploy.channel_families": Case(sparsity_tf.deploy.channel_families, {"model": net, "structure": "channel"}, {"structure": "nothing"}),
    "masks.structures.TiedUnits": Case(structures.TiedUnits, {"spec": "channel"}, {"spec": "nothing"}),
    "deploy.channel_groups": Case(sparsity_tf.deploy.channel_groups, {"model": net}),
    "deploy.save_compact": Case(sparsity_tf.save_compact, {"model": net, "path": "small.keras", "masks": False, "optimizer": False, "compression": "bzip2", "codebook_bits": None}, {"masks": "bool", "optimizer": "bool", "compression": "nothing", "codebook_bits": "optional"}),
    "deploy.export": Case(sparsity_tf.export, {"model": net, "path": "net.tflite", "format": "litert", "shrink": False, "quantize": None, "data": None, "sparse": None, "batch_size": None}, {"format": "optional", "shrink": "bool", "quantize": "optional", "data": "optional", "sparse": "optional_bool", "batch_size": "optional"}),
    "deploy.deployment_report": Case(sparsity_tf.deployment_report, {"model": net, "data": None, "targets": ("gpu_2_4",), "batch_sizes": (1,), "rounds": 1, "seconds": 0.001}, {"data": "optional", "targets": "nothing", "batch_sizes": "nothing", "seconds": "positive"}),
    "deploy.plot_deployment": Case(sparsity_tf.deploy.plot_deployment, lambda: {"report": _deployment_report(), "path": None}, {"report": "nothing", "path": "optional_path"}),
    "deploy.shrink_vocabulary": Case(sparsity_tf.deploy.shrink_vocabulary, {"model": _reader, "layer": "embedding"}, {"layer": "optional"}),
    "deploy.shrink": Case(sparsity_tf.shrink, {"model": net, "select_inputs": False}, {"select_inputs": "bool"}),
    "to_dense.to_dense": Case(sparsity_tf.to_dense, {"model": sparse_net}),
    "load_masks.load_masks": Case(sparsity_tf.load_masks, {"model": sparse_net, "source": sparse_net}, {"source": "path"}),
    "models.all_but": Case(lambda patterns: models.all_but(patterns), {"patterns": "stem"}, {"patterns": "string"}),
    "models.lenet_300_100": Case(models.lenet_300_100, {"input_shape": (4, 4, 1), "num_classes": 2, "kernel_initializer": None, "kernel_regularizer": None, "technique": "masked", "technique_options": None, "where": None}, {"technique": "optional", "technique_options": "options"}),
    "models.lenet_5_caffe": Case(models.lenet_5_caffe, {"input_shape": (16, 16, 1), "num_classes": 2, "kernel_initializer": None, "kernel_regularizer": None}),
    "models.mnist_mlp": Case(models.mnist_mlp, {"input_shape": (4, 4, 1), "num_classes": 2, "hidden": (3,), "batch_norm": "all", "kernel_initializer": None, "kernel_regularizer": None}),
    "models.fast_grnn": Case(models.fast_grnn, {"input_shape": (4, 3), "num_classes": 2, "units": 2, "input_rank": 1, "recurrent_rank": 1, "gains": True, "gain_l2": 0.1, "kernel_initializer": None, "kernel_regularizer": None}),
    "models.text_lstm": Case(models.text_lstm, {"vocabulary_size": 4, "num_classes": 2, "embedding_size": 2, "hidden_size": 2, "recurrent_activation": "sigmoid", "kernel_regularizer": None}, {"embedding_size": "nothing"}),
    "models.CharRNN": Case(models.CharRNN, {"vocabulary_size": 4, "hidden_size": 2, "depth": 1, "cell": "rnn", "kernel_regularizer": None}),
    "models.cifar_resnet": Case(models.cifar_resnet, {"depth": 8, "input_shape": (8, 8, 3), "num_classes": 2, "spatial_mask": "none", "quarters": 2, "seed": 0, "kernel_initializer": None, "kernel_regularizer": None, "spatial_bottleneck": False}, {"spatial_mask": "optional"}),
    "models.i1k_resnet": Case(models.i1k_resnet, {"depth": 18, "input_shape": (16, 16, 3), "num_classes": 2, "spatial_mask": "none", "quarters": 2, "spatial_bottleneck": False, "seed": 0, "kernel_initializer": None, "kernel_regularizer": None}, {"spatial_mask": "optional"}),
    "models.wide_resnet": Case(models.wide_resnet, {"depth": 10, "width": 0.1, "input_shape": (8, 8, 3), "num_classes": 2, "variant": "dsr", "dropout": None, "kernel_initializer": None, "kernel_regularizer": None, "spatial_bottleneck": False}, {"dropout": "optional_fraction", "width": "big"}),
    "models.resnet": Case(models.resnet, {"depth": 18, "input_shape": (32, 32, 3), "num_classes": 2, "width": 0.1, "variant": "str", "classifier": None, "zero_gamma": None, "kernel_initializer": None, "kernel_regularizer": None, "affine": True}, {"width": "big"}),
    "models.mobilenet_v1": Case(models.mobilenet_v1, {"input_shape": (32, 32, 3), "num_classes": 2, "width": 0.1, "classifier": "conv", "kernel_initializer": None, "kernel_regularizer": None, "affine": True}, {"width": "big", "classifier": "nothing"}),
    **{
        f"models.{name}": Case(getattr(models, name), {"input_shape": (32, 32, 3), "num_classes": 2, "width": 0.1, "kernel_initializer": None, "kernel_regularizer": None} | ({"variant": "sparse_vd", "max_norm": None} if name == "vgg_like" else {}), {"width": "big", "max_norm": "optional_norm"})
        for name in ("vgg_c", "vgg_d", "vgg_like")
    },
    **{
        f"models.{name}": Case(getattr(models, name), {"input_shape": (32, 32, 3), "num_classes": 2} | ({"kernel_initializer": None, "kernel_regularizer": None} if "alex" in name else {}))
        for name in ("alexnet_s", "alexnet_b", "resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152", "resnet_200")
    },
    "models.Transformer": Case(models.Transformer, {"vocabulary_size": 8, "num_layers": 1, "hidden_size": 4, "filter_size": 4, "num_heads": 1, "size": "tiny", "dropout": 0.1, "attention_dropout": 0.1, "relu_dropout": 0.1, "num_target_spaces": 2, "target_space": 0, "split_heads": False, "packed": False, "flash_attention": None, "seed": 0}, dict.fromkeys(("num_layers", "hidden_size", "filter_size", "num_heads"), "optional")),
    "callbacks.overall": Case(lambda function: callbacks.overall(function), {"function": np.abs}, {"function": "function"}),
    "callbacks.uses": Case(lambda names: callbacks.uses(names), {"names": "gradient"}, {"names": "nothing"}),
    "callbacks.SET": Case(callbacks.SET, {"sparsity": 0.9, "distribution": "erk", "drop": "magnitude", "grow": "random", "decay": "constant", "frequency": 10, "drop_fraction": 0.3, **STEPS, "where": None, "structure": None, "seed": 0}),
    "callbacks.DropAndGrow": Case(callbacks.DropAndGrow, {"sparsity": 0.9, "distribution": "erk", "drop": "magnitude", "grow": "random", "redistribution": None, "drop_fraction": 0.3, "decay": "cosine", "frequency": 10, **STEPS, "where": None, "structure": None, "seed": 0}),
    "callbacks.RigL": Case(callbacks.RigL, {"sparsity": 0.9, "distribution": "erk", "drop": "magnitude", "grow": "gradient", "frequency": 10, **STEPS, "where": None, "seed": 0}),
    "callbacks.StaticSparsity": Case(callbacks.StaticSparsity, {"sparsity": 0.9, "distribution": "erk", "dense": None, "where": None, "structure": None, "seed": 0}, {"sparsity": "optional_fraction"}),
    "callbacks.DeepRewiring": Case(callbacks.DeepRewiring, {"sparsity": 0.9, "l1": 1e-5, "temperature": 0.0, "frequency": 1, "distribution": "erk", **STEPS, "where": None, "seed": 0, "soft": False}, {"l1": "positive", "soft": "bool"}),
    "callbacks.DynamicSparseReparameterization": Case(callbacks.DynamicSparseReparameterization, {"sparsity": 0.9, "variant": "paper", "prune_target": 0.01, "initial_threshold": 0.001, "redistribution": "survivors", "power": 1.0, "frequency": 10, "distribution": "erk", **STEPS, "where": None, "seed": 0}),
    "callbacks.IterativePruning": Case(callbacks.IterativePruning, {"final_sparsity": 0.9, "rounds": 2, "steps_per_round": 5, "rewind_step": 0, "scope": "layer", "snapshot": None, "where": None}),
    "callbacks.MaskAlgorithm": Case(callbacks.MaskAlgorithm, {**STEPS, "frequency": 1, "where": None, "structure": None, "seed": 0}),
    "callbacks.NarangPruning": Case(callbacks.NarangPruning, {"target_magnitude": 0.1, "begin_step": 0, "ramp_step": 5, "end_step": 10, "frequency": 1, "where": None, "seed": 0}, {"begin_step": "optional", "seed": "nothing"}),
    "callbacks.SNIP": Case(callbacks.SNIP, {"sparsity": 0.9, "data": (np.ones((2, 4)), np.ones(2)), "scope": "layer", "distribution": "erk", "where": None, "seed": 0}),
    "callbacks.GraSP": Case(callbacks.GraSP, {"sparsity": 0.9, "data": (np.ones((2, 4)), np.ones(2)), "scope": "layer", "temperature": 1.0, "where": None, "seed": 0}),
    "callbacks.PenaltyRamp": Case(callbacks.PenaltyRamp, {"weight": 1.0, "num_examples": 10, **STEPS, "schedule": "linear", "factors": None}, {"schedule": "number"}),
    "callbacks.MagnitudePruning": Case(callbacks.MagnitudePruning, {"final_sparsity": 0.9, **STEPS, "frequency": 1, "scope": "layer", "distribution": "uniform", "where": None, "structure": None, "seed": 0}),
    "callbacks.RandomPruning": Case(callbacks.RandomPruning, {"final_sparsity": 0.9, **STEPS, "frequency": 1, "cumulative": True, "where": None, "seed": 0}),
    "callbacks.SparseMomentum": Case(callbacks.SparseMomentum, {"sparsity": 0.9, "distribution": "erk", "drop": "magnitude", "grow": "momentum", "redistribution": "momentum", "drop_fraction": 0.5, "decay": "cosine", "frequency": 10, **STEPS, "where": None, "seed": 0}),
    "callbacks.ACDC": Case(callbacks.ACDC, {"final_sparsity": 0.9, "begin_step": 1, "end_step": 10, "frequency": 1, "sparse_period": 2, "dense_period": 2, "scope": "global", "reset_momentum": True, "distribution": "uniform", "where": None, "structure": None, "seed": 0}, {"reset_momentum": "bool", "sparse_period": "nothing", "dense_period": "nothing", "structure": "structure"}),
    "callbacks.GraNet": Case(callbacks.GraNet, {"sparsity": 0.9, "distribution": "erk", "initial_sparsity": 0.5, "pruning_end_step": 8, "drop_fraction": 0.5, "decay": "cosine", "frequency": 1, **STEPS, "where": None, "seed": 0}, {"pruning_end_step": "optional", "initial_sparsity": "fraction"}),
    "callbacks.MEST": Case(callbacks.MEST, {"sparsity": 0.9, "distribution": "erk", "gradient_weight": 0.1, "drop_fraction": 0.2, "soft": True, "frequency": 10, **STEPS, "where": None, "seed": 0}, {"gradient_weight": "positive", "soft": "bool"}),
    "callbacks.SRigL": Case(callbacks.SRigL, {"sparsity": 0.9, "distribution": "erk", "ablation": 0.3, "drop_fraction": 0.3, "decay": "cosine", "frequency": 10, **STEPS, "where": None, "seed": 0}, {"ablation": "fraction"}),
    "callbacks.NetworkSlimming": Case(callbacks.NetworkSlimming, {"final_sparsity": 0.9, "end_step": 10, "factor": 1e-4, "scope": "global", "distribution": "uniform", "where": None, "seed": 0}, {"factor": "positive"}),
    "callbacks.SparsityRamp": Case(callbacks.SparsityRamp, {"final_sparsity": 0.9, "initial_sparsity": 0.0, **STEPS, "frequency": 1}, {"initial_sparsity": "fraction"}),
    "callbacks.SparsityMonitor": Case(callbacks.SparsityMonitor, {"csv_path": None, "log_dir": None, "every": 1, "verbose": 0, "explored": False}),
}  # fmt: skip
ALLOWED |= {
    # Of any arguments: it is called without.
    "function": {"function_of_none", "function_of_five"},
    "function_of_five": {"function_of_five"},
    "optional_function": {"none"},
    # Names of options are refused by the list of those that the technique has.
    "options": {"none", "empty_dict", "strings_dict", "recursive_dict"},
    # Numbers of a shape that is not the model's: Keras says which shape the layer needs.
    "numbers": NUMBERS | {
        "bytes",        "nan", "inf", "minus_inf", "numpy_nan", "minus_one", "minus_half", "true", "huge_integer", "minus_huge_integer",
        "nested_list", "set", "range", "generator", "odd_array", "bool_array", "nan_array", "empty_array",
        "scalar_array",
    },
    # Strings, but too few for a vocabulary.
    "texts": {"strings_dict", "recursive_dict", "string_array"},
    # Without an axis an example is one number.
    "shape_or_scalar": {"none", "empty_list", "empty_tuple"},
    "optional_dict": {"none", "empty_dict"},
    "empty_dict": {"empty_dict"},
    "at_most_10": {"half", "one_and_half"},
    "optional_number": ALLOWED["number"] | {"none"},
    "big": {"half", "one_and_half"},
    "scores": ALLOWED["array"] | {"odd_array", "empty_array", "scalar_array", "bool_array", "empty_list", "empty_tuple", "inf", "minus_inf", "range"},
    # Inside a compiled step NaN can't be found: it counts as the largest magnitude, as the docstring says.
    "traced_scores": {"nan", "numpy_nan", "nan_array"},
    # Numbers that are not zero are candidates; `None` in a list is all of an array.
    "candidates": {"none", "odd_array", "bool_array", "nan_array"},
    "list_of_candidates": {"none", "nones"},
    "list_of_scores": {"empty_list", "empty_tuple"},
    # Entries that are not zero live, NaN among them.
    "matrix_with_entries": {"odd_array", "bool_array", "nan_array"},
    "matrix": {"odd_array", "bool_array", "nan_array", "empty_array"},
}  # fmt: skip


def _normalised():
    return keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])


def _built_grnn():
    layer = layers.FastGRNN(2, input_rank=1)
    layer.build((None, None, 3))
    return layer


def _film():
    film = inspection.MaskAnimation(net().layers[0])
    film.capture("a")
    return film


def _budget_file():
    budgets.write_csv("read.csv", {"a": 0.5})
    return "read.csv"


def _logits(cache, tokens, ancestors, sequences, step):
    return keras.ops.ones((*tokens.shape, 3)), cache


def _split():
    from sparsity_tf.datasets.images.imagenet import Split

    return Split(("a", "b", "c"), np.zeros(3, "int32"), 3)


def _module(name):
    import sys

    return sys.modules[f"sparsity_tf.{name}"]


class _Letters(subwords.Vocabulary):
    size, path = 128, "letters"

    def _encode(self, text):
        return [ord(letter) for letter in text]

    def _decode(self, ids):
        return "".join(map(chr, ids))


def layer_cases():
    """One case for each technique, and for each layer that has one: the technique's options."""
    cases = {}
    # Other test modules may have registered techniques of their own.
    for technique in {one for one in layers.TECHNIQUES.values() if one.name in OPTIONS}:
        cases[f"layers.{technique.__name__}"] = Case(technique, OPTIONS.get(technique.name), OPTION_SPECS)
    for cls in (one for one in layers.LAYER_CLASSES.values() if one.technique_class.name in OPTIONS):
        stock = STOCK.get(cls.keras_class.__name__, {"units": 2})
        options = OPTIONS[cls.technique_class.name]
        call = functools.partial(cls, **stock)
        cases[f"layers.{cls.__name__}"] = Case(call, options, OPTION_SPECS)
    return cases


ALLOWED["traced_scores"] |= ALLOWED["scores"]

# A callback sees its model later: only then is it known which names match nothing.
ALLOWED["names"] = STRINGS | {"none"}
ALLOWED["dense_names"] = ALLOWED["names"] | ALLOWED["dense_tensors"]
for name, case in CASES.items():
    if name.startswith("callbacks."):
        case.specs = {"where": "names", "dense": "dense_names", **case.specs}

CASES |= layer_cases()

RECORD = "a record or table that the package makes: it holds what it is given"
BASE = "a base class: its subclasses are tested"
TRACED = "takes tensors inside a compiled step"
# Left out: callables (and all their methods), with the reason.
RECORDS = {
    **dict.fromkeys(
        [
            "inspection.FeatureRow", "inspection.FeatureTable", "inspection.FlopsRow", "inspection.FlopsTable",
            "inspection.SensitivityRow", "inspection.SensitivityTable", "prune_report.PruneReport", "prune_report.PruneRow",
            "inspection.SparsityRow", "inspection.SparsityTable", "inspection.SpeedupRow", "inspection.SpeedupTable",
            "checkpoints.CheckpointSparsity", "checkpoints.TensorSparsity", "checkpoints.CheckpointError",
            "sparsify.ChangedLayer", "sparsify.SkippedLayer", "sparsify.SparsifyReport", "decoding.Hypotheses", "callbacks.WeightView",
            "deploy.ChannelGroup", "deploy.GroupMember", "deploy.ChannelFamily", "deploy.FamilyPart", "deploy.ShrinkReport", "deploy.ShrinkRow",
            "deploy.CompactFile", "deploy.DeploymentReport", "deploy.DeploymentRow", "deploy.ExportReport",
            "study.PublishedResult", "study.Run", "study.TradeoffPoint", "study.TradeoffTable",
            "study.Outcome", "study.Study", "study.StudyFileError", "study.StudyRow", "study.StudyTable",
            "datasets.ImageData", "datasets.ImageFiles", "datasets.ParallelCorpus", "datasets.CharacterCorpus",
            "datasets.LabelledText", "datasets.SequenceData",
        ],
        RECORD,
    ),
    **dict.fromkeys(
        [
            "layers.SparseLayer", "layers.Technique", "schedules.Schedule", "distributions.Distribution",
            "datasets.Batches", "checkpoints.Checkpoint", "datasets.text.subwords.Vocabulary",
            "layers.SparseDense", "layers.SparseEinsumDense", "layers.SparseConv1D", "layers.SparseConv2D",
            "layers.SparseConv3D", "layers.SparseDepthwiseConv2D", "layers.SparseEmbedding",
            "layers.SparseReversibleEmbedding", "layers.SparseGRU", "layers.SparseGRUCell", "layers.SparseLSTM",
            "layers.SparseLSTMCell", "layers.SparseSimpleRNN", "layers.SparseSimpleRNNCell", "masks.structures.Elements",
            "layers.SparseConv1DTranspose", "layers.SparseConv2DTranspose", "layers.SparseConv3DTranspose",
            "layers.SparseDepthwiseConv1D", "layers.SparseSeparableConv1D", "layers.SparseSeparableConv2D",
            "layers.SparseConvLSTM1D", "layers.SparseConvLSTM2D", "layers.SparseConvLSTM3D",
            "layers.SparseConvLSTMCell", "layers.MaskedLayer", "layers.HashedLayer",
        ],
        BASE,
    ),
    **dict.fromkeys(
        ["masks.zero_outside", "masks.largest_on_device", "decoding.length_penalty", "masks.structures.Filters"], TRACED
    ),
    **dict.fromkeys(
        ["models.ScaledTokens", "models.ShiftRight", "models.TimingSignal"], "no arguments but those of Keras's layers"
    ),
    "datasets.TranslationBatches": "made by `translation_batches`, which checks",
    **dict.fromkeys(
        [
            "distributions.names_of", "distributions.check_tensors", "distributions.select_dense",
            "distributions.shorten", "masks.structures.check", "masks.structures.problem",
            "masks.structures.NM.sparsity_of", "masks.structures.NM.problem", "masks.structures.TiedUnits.number_to_keep",
            "sparsify.reason_to_skip", "sparsify.plan", "sparsify.mask_selected",
            "study.Study.of", "study.Study.repeats", "study.StudyTable.write_csv",
        ],
        "shared by modules of the package, which call it with what has been checked",
    ),
    **dict.fromkeys(
        [
            "datasets.text.subwords.SentencePieceVocabulary", "datasets.text.subwords.SubwordVocabulary",
            "datasets.text.subwords.split_words", "datasets.text.subwords.join_words", "datasets.text.subwords.escape",
            "datasets.text.subwords.unescape",
        ],
        "a part of `subwords.load`, which checks",
    ),
}  # fmt: skip
# Methods that Keras or the package calls, not the user: they take what these hand over.
HOOKS = set(
    "build call get_config from_config compute_output_shape compute_output_spec save_own_variables load_own_variables "
    "value mask variable_of shape_of stored_of training_value threshold penalty release apply over_time tensor extra extra_variable add_variable "
    "products targets factor epsilon reduce alive expand random_scores keep_random axes start change_masks uses scores due "
    "default_end_step on_train_begin on_train_end on_epoch_begin on_epoch_end on_train_batch_begin on_train_batch_end "
    "update prepare finish rng new_mask grow_weights drop_fraction_at temperature_at threshold_at penalty_weight initial_mask "
    "sparsity_after view views portions assign remember left_undone adjust_pruning_threshold reallocate_free_parameters model_sparsity prune_by_threshold record "
    "lp_norm call_mask add_penalty gain prepare multiply matrix get_initial_state inner_loop convolution_op "
    "filter_axes group_axes position_axes apply_weight enable_lora reason_against batch assign_mask masked_variable "
    "assign_sparsity used trained sparsity_at default_pruning_end_step settled_step least_salient axis set_seed lowest_theta".split()
)
# Arguments that are checked in one place for all callables: `models._building.apply_technique`, tested with
# `lenet_300_100`; and the name of a model, which Keras checks.
INCIDENTAL = set()


def is_keras_layer(case):
    """Keras walks through the arguments of a layer before the layer sees them, and fails at what holds itself."""
    call = getattr(case.call, "func", case.call)
    return inspect.isclass(call) and issubclass(call, keras.layers.Layer)
