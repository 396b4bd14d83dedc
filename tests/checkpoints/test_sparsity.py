"""Which tensors of a checkpoint count, and how: golden values of the State of Sparsity sheet."""

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from sparsity_tf import layers, sparsify
from sparsity_tf.checkpoints import CheckpointError, checkpoint_sparsity
from sparsity_tf.layers import get_sparse_weights

MASK = np.array([[1, 0, 1], [0, 0, 1]], "float32")
WEIGHT = np.array([[0.5, -0.1, 2.0], [0.0, 0.2, -1.0]], "float32")

# Theta and s of section 11, and whether the entry is kept at threshold 3.
THETA = np.array([0.5, 0.01, 0.0, -0.02, 1.0], "float32")
LOG_SIGMA2 = np.array([-10.0, -10.0, -10.0, -4.0, 0.0], "float32")
VD_KEPT = 3
# Gates of log alpha 2.197 and 0 are open at evaluation; -2.5 lies below -ln(11) and is closed.
LOG_ALPHA = np.array([2.197, 0.0, -2.5, -2.3978, -2.398], "float32")
L0_KEPT = 3


def save_tensors(prefix, tensors):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(tensor) for tensor in tensors.values()],
    )
    return str(prefix)


def save_keras(path, variables_of, options=None):
    """Writes `variables_of[layer][variable]` as this package does, in either Keras format."""
    weights = path.with_suffix(".scratch")
    with h5py.File(weights, "w") as file:
        file.create_group("vars").attrs["name"] = "model"
        for name, variables in variables_of.items():
            group = file.create_group(f"layers/{name}/vars")
            group.attrs["name"] = name
            for variable, value in variables.items():
                group[variable] = value
    if path.suffix == ".h5":
        return weights.rename(path)
    configs = [
        {"class_name": "Anything", "config": {"name": name, **((options or {}).get(name, {}))}} for name in variables_of
    ]
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": configs}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")
    return path


def counts(report):
    return {row.name: (row.nonzeros, row.size) for row in report.rows}


# Checkpoints of the State of Sparsity.


@pytest.mark.parametrize("technique", ["magnitude_pruning", "random_pruning", "auto"])
def test_pruning_counts_tensors_whose_name_ends_in_mask(tmp_path, technique):
    path = save_tensors(
        tmp_path / "model.ckpt-1",
        {
            "net/body/q/fully_connected/mask": MASK,
            "net/body/q/fully_connected/threshold": np.float32(0.3),
            "net/body/q/fully_connected/weights": WEIGHT,
            "net/body/q/fully_connected/weights/Adam": WEIGHT,
            "net/body/k_shard_0/mask": np.ones((2, 2), "float32"),
            "net/body/k_shard_0/threshold": np.float32(0),
            "net/body/k_shard_0/kernel": np.ones((2, 2), "float32"),
            "model_pruning/last_mask_update_step": np.int32(9),
        },
    )
    report = checkpoint_sparsity(path, technique)
    assert counts(report) == {
        "net/body/k_shard_0/mask": (4, 4),
        "net/body/q/fully_connected/mask": (3, 6),
    }
    assert (report.nonzeros, report.size) == (7, 10)
    assert report.global_sparsity == pytest.approx(0.3)


def test_variational_dropout_of_the_transformer_pairs_kernel_and_shards(tmp_path):
    path = save_tensors(
        tmp_path / "c",
        {
            "t/ffn/conv1/kernel": THETA,
            "t/ffn/conv1/log_sigma2": LOG_SIGMA2,
            "t/ffn/conv1/bias": THETA,
            "t/shared/weights_0": THETA[:3],
            "t/shared/weights_0_aux": LOG_SIGMA2[:3],
            "training/t/ffn/conv1/log_sigma2/Adam": LOG_SIGMA2,
        },
    )
    for technique in ("variational_dropout", "auto"):
        assert counts(checkpoint_sparsity(path, technique)) == {
            "t/ffn/conv1/log_sigma2": (VD_KEPT, 5),
            "t/shared/weights_0_aux": (2, 3),
        }


def test_variational_dropout_of_resnet_pairs_weights_under_doubled_scopes(tmp_path):
    scope = "resnet_model/initial_conv/resnet_model/initial_conv"
    path = save_tensors(
        tmp_path / "c",
        {
            f"{scope}/weights": THETA,
            f"{scope}/log_sigma2": LOG_SIGMA2,
            f"{scope}/weights/Momentum": THETA,
            "resnet_model/batch_normalization/gamma": THETA,
        },
    )
    report = checkpoint_sparsity(path, "variational_dropout")
    assert counts(report) == {f"{scope}/log_sigma2": (VD_KEPT, 5)}


@pytest.mark.parametrize("threshold, kept", [(-8.7, 0), (-8.0, 1), (-0.5, 2), (3.9, 4), (9.0, 5)])
def test_log_alpha_is_compared_with_the_threshold_unclipped(tmp_path, threshold, kept):
    path = save_tensors(tmp_path / "c", {"a/kernel": THETA, "a/log_sigma2": LOG_SIGMA2})
    assert checkpoint_sparsity(path, log_alpha_threshold=threshold).nonzeros == kept


def test_log_alpha_equal_to_the_threshold_is_zero(tmp_path):
    # theta = 0: log alpha = s - ln(1e-8), in double precision.
    threshold = float(np.float64(-10.0) - np.log(1e-8))
    path = save_tensors(
        tmp_path / "c",
        {"a/kernel": np.zeros(1, "float32"), "a/log_sigma2": np.full(1, -10.0, "float32")},
    )
    assert checkpoint_sparsity(path, log_alpha_threshold=threshold).nonzeros == 0
    assert checkpoint_sparsity(path, log_alpha_threshold=threshold + 1e-9).nonzeros == 1


def test_l0_counts_deterministic_gates_whatever_the_weights(tmp_path):
    path = save_tensors(
        tmp_path / "c",
        {
            "t/q/kernel": np.zeros(5, "float32"),
            "t/q/log_alpha": LOG_ALPHA,
            "t/shared/weights_0": np.zeros(5, "float32"),
            "t/shared/weights_0_aux": LOG_ALPHA,
        },
    )
    for technique in ("l0_regularization", "auto"):
        assert counts(checkpoint_sparsity(path, technique)) == {
            "t/q/log_alpha": (L0_KEPT, 5),
            "t/shared/weights_0_aux": (L0_KEPT, 5),
        }


def test_extreme_log_alphas_need_no_warning(tmp_path):
    path = save_tensors(tmp_path / "c", {"log_alpha": np.array([-1e30, 1e30], "float32")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint_sparsity(path).nonzeros == 1


def test_aux_tensors_of_unknown_technique_must_be_asked_for_by_name(tmp_path):
    path = save_tensors(tmp_path / "c", {"w_0": THETA, "w_0_aux": LOG_SIGMA2})
    with pytest.raises(CheckpointError, match="`sparsity_technique` must be given"):
        checkpoint_sparsity(path)
    assert checkpoint_sparsity(path, "variational_dropout").nonzeros == VD_KEPT
    assert checkpoint_sparsity(path, "l0_regularization").nonzeros == 1


def test_aux_tensors_are_not_taken_for_the_other_technique(tmp_path):
    path = save_tensors(tmp_path / "c", {"w_0": THETA, "w_0_aux": LOG_ALPHA, "q/log_alpha": LOG_ALPHA})
    with pytest.raises(CheckpointError, match="l0_regularization, not of variational_dropout"):
        checkpoint_sparsity(path, "variational_dropout")


def test_tensors_in_several_chunks_are_counted_whole(tmp_path):
    theta = np.zeros(3_000_000, "float32")
    theta[::3] = 1.0
    path = save_tensors(tmp_path / "c", {"a/kernel": theta, "a/log_sigma2": np.full_like(theta, -10.0)})
    assert checkpoint_sparsity(path).nonzeros == 1_000_000


def test_techniques_may_be_mixed_and_asked_for_one_by_one(tmp_path):
    path = save_tensors(
        tmp_path / "c",
        {
            "a/kernel": THETA,
            "a/log_sigma2": LOG_SIGMA2,
            "b/kernel": THETA,
            "b/log_alpha": LOG_ALPHA,
            "c/mask": MASK,
        },
    )
    assert len(checkpoint_sparsity(path).rows) == 3
    for technique, name in (
        ("variational_dropout", "a/log_sigma2"),
        ("l0_regularization", "b/log_alpha"),
        ("magnitude_pruning", "c/mask"),
    ):
        (row,) = checkpoint_sparsity(path, technique).rows
        assert (row.name, row.technique) == (name, technique)


def test_object_based_checkpoint_with_bool_masks(tmp_path):
    parts = [
        tf.train.Checkpoint(mask=tf.Variable(MASK > 0), kernel=tf.Variable(WEIGHT)),
        tf.train.Checkpoint(kernel=tf.Variable(THETA), log_sigma2=tf.Variable(LOG_SIGMA2)),
    ]
    path = tf.train.Checkpoint(layers=parts).save(tmp_path / "c")
    assert counts(checkpoint_sparsity(path)) == {
        "layers/0/mask": (3, 6),
        "layers/1/log_sigma2": (VD_KEPT, 5),
    }


class NamedVariables(keras.layers.Layer):
    """A layer that keeps its kernel under `_kernel`, as layers of Keras do."""

    def build(self, input_shape):
        self._kernel = self.add_weight(name="kernel", shape=(5,), initializer="zeros")
        self.log_sigma2 = self.add_weight(name="log_sigma2", shape=(5,), initializer="zeros")
        self._kernel.assign(THETA)
        self.log_sigma2.assign(LOG_SIGMA2)

    def call(self, inputs):
        return inputs * self._kernel


@pytest.mark.tensorflow
def test_keras_model_in_checkpoint_and_saved_model_pairs_by_variable_names(tmp_path):
    model = keras.Sequential([keras.Input((5,)), NamedVariables(), NamedVariables()], name="net")
    model.compile("adam", "mse")
    path = tf.train.Checkpoint(optimizer=model.optimizer, model=model).save(tmp_path / "c")
    model.export(tmp_path / "exported", verbose=False)
    for given in (path, tmp_path / "exported"):
        assert counts(checkpoint_sparsity(given)) == {
            "net/named_variables/log_sigma2": (VD_KEPT, 5),
            "net/named_variables_1/log_sigma2": (VD_KEPT, 5),
        }


# Files of this package's layers.


def test_each_layer_of_a_weights_file_is_counted_by_its_technique(tmp_path):
    path = save_keras(
        tmp_path / "m.weights.h5",
        {
            "vd": {"kernel": THETA, "log_sigma2": LOG_SIGMA2, "penalty_weight": np.float32(0)},
            "l0": {"kernel": THETA, "log_alpha": LOG_ALPHA, "bias": THETA},
            "masked": {"kernel": WEIGHT, "mask": MASK > 0},
            "str": {"kernel": WEIGHT, "raw_threshold": np.float32(0)},
            "dnw": {"kernel": WEIGHT, "sparsity": np.float32(0.5)},
            "plain": {"0": WEIGHT, "1": WEIGHT[0]},
            "lookup": {"embeddings": THETA, "log_sigma2": LOG_SIGMA2},
        },
    )
    assert counts(checkpoint_sparsity(path)) == {
        "vd/log_sigma2": (VD_KEPT, 5),
        "l0/log_alpha": (L0_KEPT, 5),
        "masked/mask": (3, 6),
        "str/kernel": (2, 6),  # |w| > sigmoid(0) = 0.5, strictly
        "dnw/kernel": (3, 6),
        "lookup/log_sigma2": (VD_KEPT, 5),
    }


def test_reversible_embeddings_count_both_matrices(tmp_path):
    path = save_keras(
        tmp_path / "m.weights.h5",
        {
            "vd": {
                "embeddings": THETA,
                "log_sigma2": LOG_SIGMA2,
                "reverse_embeddings": np.ones(5, "float32"),
                "reverse_embeddings_log_sigma2": LOG_SIGMA2,
            },
            "l0": {"reverse_embeddings": THETA, "reverse_embeddings_log_alpha": LOG_ALPHA},
            "masked": {"reverse_embeddings": WEIGHT, "reverse_embeddings_mask": MASK > 0},
            "str": {"reverse_embeddings": WEIGHT, "reverse_embeddings_threshold": np.float32(0)},
        },
    )
    assert counts(checkpoint_sparsity(path)) == {
        "vd/log_sigma2": (VD_KEPT, 5),
        "vd/reverse_embeddings_log_sigma2": (5, 5),
        "l0/reverse_embeddings_log_alpha": (L0_KEPT, 5),
        "masked/reverse_embeddings_mask": (3, 6),
        "str/reverse_embeddings": (2, 6),
    }


def test_options_of_the_layers_are_taken_from_a_keras_file(tmp_path):
    variables_of = {
        "vd": {"kernel": THETA, "log_sigma2": LOG_SIGMA2},
        "l0": {"kernel": THETA, "log_alpha": LOG_ALPHA},
        "str": {"kernel": WEIGHT, "raw_threshold": np.float32(0)},
        "dnw": {"kernel": WEIGHT},
    }
    options = {
        "vd": {"log_alpha_threshold": -0.5},
        "l0": {"gamma": -1.0, "zeta": 1.1},  # closed below log alpha = ln(1 / 1.1)
        "str": {"threshold_function": "exponential"},  # threshold 1
        "dnw": {"sparsity": 0.7},  # floor(4.2) zeros
    }
    path = save_keras(tmp_path / "m.keras", variables_of, options)
    report = checkpoint_sparsity(path)
    assert counts(report) == {
        "vd/log_sigma2": (2, 5),
        "l0/log_alpha": (2, 5),
        "str/kernel": (1, 6),
        "dnw/kernel": (2, 6),
    }
    assert report.notes == ()
    overridden = checkpoint_sparsity(path, "variational_dropout", log_alpha_threshold=3.9)
    assert overridden.nonzeros == 4


def sparse_model():
    """One layer of each technique with options that are not the defaults, at random weights."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.VDConv2D(4, 3, log_sigma2_initializer=-3.0, log_alpha_threshold=2.0),
            layers.L0Conv2D(4, 2, gamma=-0.2, log_alpha_initializer=keras.initializers.RandomNormal(-1, 1)),
            keras.layers.Flatten(),
            layers.STRDense(8, threshold_function="exponential", granularity="filter", threshold_initializer=-2),
            layers.STRDense(8, threshold_initializer=-2, granularity="weight"),
            layers.DNWDense(10, sparsity=0.7),
            layers.MaskedDense(5, mask_initializer=keras.initializers.Constant(0)),
            keras.layers.Dense(3),
        ]
    )


def attention_model(technique, **options):
    """A layer whose config does not mention the sublayers that become sparse."""
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4)(inputs, inputs))
    return sparsify(model, technique, **options)


def recurrent_model(technique, **options):
    """Cells of one name: of a layer of Keras, which has no config of its own, and one of a plain RNN, which has."""
    cell = keras.layers.GRUCell(4, name="gru_cell")
    model = keras.Sequential(
        [
            keras.Input((6, 5)),
            keras.layers.GRU(4, name="gru", return_sequences=True),
            keras.layers.RNN(cell, name="rnn", return_sequences=True),
            keras.layers.Bidirectional(keras.layers.LSTM(4, name="lstm")),
        ]
    )
    sparsify(model, technique, where=["gru", "forward_lstm"], **options)
    sparsify(model, technique)
    generator = np.random.default_rng(0)
    for weight in get_sparse_weights(model):
        for variable, mean in (("log_sigma2", -3), ("log_alpha", 0)):
            if weight.technique.name == {"log_sigma2": "variational_dropout", "log_alpha": "l0"}[variable]:
                weight.extra_variable(variable).assign(generator.normal(mean, 2, weight.shape))
    return model


def text_model(**options):
    """Group variables: some groups are dead, one gate has a mean of exactly 0."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.LSTM(5, name="lstm")(keras.layers.Embedding(20, 4, name="words")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    sparsify(model, "gvd", log_alpha_threshold=-1.0, **options)
    generator = np.random.default_rng(0)
    for weight in get_sparse_weights(model):
        weight.extra_variable("log_sigma2").assign(generator.normal(-6, 2, weight.shape))
        for group in ("word", "input", "unit", "gate"):
            try:
                variable = weight.extra_variable(f"{group}_log_sigma2")
            except AttributeError:
                continue
            variable.assign(generator.normal(-2, 2, variable.shape))
    return model


def convolutional_model(technique, **options):
    """Layers with other names of weights than `kernel`, or with two of them."""
    model = keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            keras.layers.ConvLSTM1D(2, 3, return_sequences=True, name="memory"),
            keras.layers.SeparableConv2D(4, 2, name="separable"),
            keras.layers.Conv2DTranspose(3, 2, name="transposed"),
        ]
    )
    sparsify(model, technique, **options)
    generator = np.random.default_rng(0)
    for weight in get_sparse_weights(model):
        if weight.technique.name == "masked":
            weight.assign_mask(generator.random(weight.shape) < 0.5)
        elif weight.technique.name == "variational_dropout":
            weight.extra_variable("log_sigma2").assign(generator.normal(-3, 2, weight.shape))
        elif weight.technique.name == "l0":
            weight.extra_variable("log_alpha").assign(generator.normal(-2, 2, weight.shape))
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: convolutional_model("masked"),
        lambda: convolutional_model("vd", log_alpha_threshold=-1.0),
        lambda: convolutional_model("l0"),
        lambda: convolutional_model("str", threshold_initializer=-2.0),
        lambda: convolutional_model("dnw", sparsity=0.6),
        lambda: recurrent_model("vd", log_alpha_threshold=-1.0),
        lambda: recurrent_model("l0", gamma=-0.4),
        lambda: recurrent_model("str", threshold_function="exponential", threshold_initializer=-1.0),
        lambda: recurrent_model("dnw", sparsity=0.6),
        text_model,
        lambda: text_model(groups=["gate"]),
        lambda: text_model(groups=[]),
        sparse_model,
        lambda: attention_model("soft_threshold", threshold_function="exponential", threshold_initializer=-2),
        lambda: attention_model("discovering_wirings", sparsity=0.6),
        lambda: attention_model("top_kast", sparsity=0.6),
    ],
)
def test_a_keras_file_is_as_sparse_as_the_model_says(tmp_path, build):
    model = build()
    model.save(tmp_path / "m.keras")
    report = checkpoint_sparsity(tmp_path / "m.keras")
    weights = get_sparse_weights(model)
    assert 0 < report.nonzeros < report.size
    assert sorted(row.nonzeros for row in report.rows) == sorted(w.count() for w in weights)
    assert sorted(row.size for row in report.rows) == sorted(w.size for w in weights)
    assert report.notes == ()


def test_rows_of_discovered_wirings_and_top_kast_bear_their_own_names(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.DNWDense(3, sparsity=0.6, name="a"), layers.TopKASTDense(3, sparsity=0.6, name="b")]
    )
    model.save(tmp_path / "m.keras")
    rows = {row.name: row.technique for row in checkpoint_sparsity(tmp_path / "m.keras").rows}
    assert rows == {"a/kernel": "discovering_wirings", "b/kernel": "top_kast"}
    for technique, name, left in (("discovering_wirings", "a/kernel", 12 - 7), ("top_kast", "b/kernel", 9 - 5)):
        assert counts(checkpoint_sparsity(tmp_path / "m.keras", technique)) == {name: (left, (12, 9)[name[0] == "b"])}


def test_group_variables_zero_their_rows_and_columns(tmp_path):
    """Row 1 of the table is dead, row 0 has a mean of 0. A picture shows the same entries."""
    low, one = np.full((3, 2), -20, "float32"), np.ones((3, 1), "float32")
    path = save_keras(
        tmp_path / "m.weights.h5",
        {
            "words": {
                "embeddings": np.ones((3, 2), "float32"),
                "log_sigma2": low,
                "word_mean": np.array([[0], [1], [1]], "float32"),
                "word_log_sigma2": np.array([[-40], [3.1], [2.9]], "float32"),
            },
            # A variable whose name looks like a group's, but which has no mean beside it.
            "odd": {"input": one, "input_log_sigma2": one * -20},
        },
    )
    report = checkpoint_sparsity(path, picture_width=4)
    assert counts(report) == {"words/log_sigma2": (4, 6), "odd/input_log_sigma2": (3, 3)}
    row = next(row for row in report.rows if row.name == "words/log_sigma2")
    assert (row.nonzero_values, row.picture) == (2, "\u282d")


@pytest.mark.parametrize(
    "technique,options",
    [("hashed", {}), ("movement", {"initial_sparsity": 0.5}), ("sbp", {}), ("sr_ste", {})],
)
def test_techniques_whose_zeros_are_not_in_the_file_are_refused(tmp_path, technique, options):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="first"), keras.layers.Dense(4)])
    sparsify(model, technique, where=["first"], **options)
    model.save(tmp_path / "m.keras")
    with pytest.raises(CheckpointError, match="'first/.*load the model and use `inspection.sparsity_table`"):
        checkpoint_sparsity(tmp_path / "m.keras")


def test_assumptions_are_noted(tmp_path):
    variables_of = {
        "str": {"kernel": WEIGHT, "raw_threshold": np.float32(0)},
        "dnw": {"kernel": WEIGHT},
        "other": {"threshold": np.float32(0)},
    }
    report = checkpoint_sparsity(save_keras(tmp_path / "m.weights.h5", variables_of))
    assert counts(report) == {"str/kernel": (2, 6)}
    notes = "\n".join(report.notes)
    assert "sigmoid assumed" in notes
    assert "'dnw/kernel' is counted as dense" in notes
    assert "'other/threshold' ignored" in notes


def test_layers_of_one_name_are_told_apart_by_the_models_around_them(tmp_path):
    def layer(name, threshold):
        return {"class_name": "A", "config": {"name": name, "log_alpha_threshold": threshold}}

    def model(name, *layers):
        return {"class_name": "B", "config": {"name": name, "layers": layers}}

    config = model("net", model("one", layer("x", -0.5)), model("two", layer("x", 3.0)))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for key, name in (("", "net"), ("layers/a/", "one"), ("layers/b/", "two")):
            file.create_group(f"{key}vars").attrs["name"] = name
        for key in ("layers/a/layers/x/vars", "layers/b/layers/x/vars"):
            file[f"{key}/kernel"], file[f"{key}/log_sigma2"] = THETA, LOG_SIGMA2
            file[key].attrs["name"] = "x"
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    assert counts(checkpoint_sparsity(tmp_path / "m.keras")) == {
        "one/x/log_sigma2": (2, 5),
        "two/x/log_sigma2": (VD_KEPT, 5),
    }


def test_soft_thresholds_broadcast_over_filters_and_weights(tmp_path):
    by_filter = np.array([[0.0, -9.0, 9.0]], "float32")
    path = save_keras(
        tmp_path / "m.weights.h5",
        {
            "filters": {"kernel": WEIGHT, "raw_threshold": by_filter},
            "weights": {"kernel": WEIGHT, "raw_threshold": np.full((2, 3), -9.0, "float32")},
        },
    )
    assert counts(checkpoint_sparsity(path, "soft_threshold")) == {
        "filters/kernel": (4, 6),
        "weights/kernel": (5, 6),
    }


@pytest.mark.parametrize("sparsity, size, nonzeros", [(0.29, 100, 71), (0.9, 1000, 100), (0.999, 10, 1), (0.0, 4, 4)])
def test_discovering_wirings_zeroes_exactly_the_floor_also_with_ties(tmp_path, sparsity, size, nonzeros):
    variables_of = {"dnw": {"kernel": np.ones((1, size), "float32"), "sparsity": np.float32(sparsity)}}
    path = save_keras(tmp_path / "m.weights.h5", variables_of)
    assert checkpoint_sparsity(path, "discovering_wirings").nonzeros == nonzeros


def test_plain_keras_model_counts_exact_zeros_of_matrices(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    model.compile("adam", "mse")
    model.layers[0].kernel.assign([[0.0, 1.0], [0.0, -0.0], [2.0, 3.0]])
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.keras")
    report = checkpoint_sparsity(tmp_path / "m.keras")
    (row,) = report.rows
    assert (row.name, row.technique, row.shape, row.nonzeros) == ("d/0", "zeros", (3, 2), 3)
    assert "exact zeros" in report.notes[0]


def test_zeros_counts_float_matrices_only(tmp_path):
    path = save_tensors(
        tmp_path / "c",
        {
            "w": WEIGHT,
            "w/Momentum": WEIGHT,
            "b": WEIGHT[0],
            "ids": np.ones((2, 2), "int32"),
            "x/mask": MASK > 0,
        },
    )
    assert counts(checkpoint_sparsity(path, "zeros")) == {"w": (5, 6)}


def test_json_has_exactly_the_documented_keys(tmp_path):
    path = save_tensors(tmp_path / "c", {"x/mask": MASK})
    assert json.loads(checkpoint_sparsity(path).to_json()) == {
        "global_sparsity": 0.5,
        "size": 6,
        "nonzeros": 3,
        "tensors": [{"name": "x/mask", "shape": [2, 3], "size": 6, "nonzeros": 3, "sparsity": 0.5}],
    }


# Errors.

NAN = np.array([[1.0, np.nan]], "float32")


@pytest.mark.parametrize(
    "tensors, technique, message",
    [
        ({"a/log_sigma2": LOG_SIGMA2}, "auto", "no partner tensor. Tried: a/kernel, a/weights"),
        ({"a_aux": LOG_SIGMA2}, "variational_dropout", "no partner tensor. Tried: a"),
        ({"a/raw_threshold": THETA}, "auto", "no partner tensor"),
        ({"a/kernel": THETA[:2], "a/log_sigma2": LOG_SIGMA2}, "auto", "has another shape"),
        (
            {"a/kernel": THETA, "a/weights": THETA, "a/log_sigma2": LOG_SIGMA2},
            "auto",
            "several candidates for the weight: a/kernel, a/weights",
        ),
        (
            {"a/kernel": WEIGHT, "a/raw_threshold": np.ones(7, "float32")},
            "auto",
            "does not broadcast",
        ),
        ({"a/kernel": WEIGHT, "a/sparsity": np.float32(1.5)}, "auto", r"a number in \[0, 1\]"),
        ({"a/mask": MASK}, "l0_regularization", "Techniques found: magnitude_pruning"),
        ({"a/kernel": WEIGHT}, "magnitude_pruning", "Techniques found: none"),
        ({"a/bias": THETA}, "auto", "no weights to count"),
        ({"a/mask": np.zeros((0, 3), "float32")}, "auto", "no weights to count"),
        ({"a/mask": NAN}, "auto", "Tensor 'a/mask' of .* holds NaN"),
        ({"a/log_alpha": NAN}, "auto", "holds NaN"),
        ({"a/kernel": NAN, "a/log_sigma2": NAN * 0 + 1}, "auto", "holds NaN"),
        ({"a/kernel": NAN}, "zeros", "Tensor 'a/kernel' of .* holds NaN"),
        (
            {"a/kernel": THETA + np.inf, "a/log_sigma2": LOG_SIGMA2 + np.inf},
            "auto",
            "Log alpha of 'a/log_sigma2' .* is NaN",
        ),
    ],
)
def test_what_cannot_be_counted_is_one_clear_line(tmp_path, tensors, technique, message):
    path = save_tensors(tmp_path / "c", tensors)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint_sparsity(path, technique)
    assert "\n" not in str(error.value)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="Received: technique='pruning'"):
        checkpoint_sparsity(tmp_path, "pruning")
    with pytest.raises(ValueError, match="Received: log_alpha_threshold=nan"):
        checkpoint_sparsity(tmp_path, log_alpha_threshold=float("nan"))


@pytest.mark.not_on_torch("Keras exports a SavedModel from TensorFlow and JAX only")
@pytest.mark.parametrize("technique", ["vd", "str", "masked"])
def test_the_saved_model_of_a_sparsified_model_counts_as_the_model_does(technique, tmp_path):
    """Variables that `sparsify` adds stand beside the kernel, under the same name scope."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="a"), keras.layers.Dense(4, name="b")])
    sparsify(model, technique)
    for weight in get_sparse_weights(model):
        if technique == "masked":
            weight.assign_mask(np.arange(weight.size).reshape(weight.shape) % 3 == 0)
        elif technique == "vd":
            weight.extra_variable("log_sigma2").assign(np.random.default_rng(0).normal(-1, 4, weight.shape))
        else:
            weight.extra_variable("raw_threshold").assign(-1.5)
    model.export(tmp_path / "exported", verbose=False)
    if keras.backend.backend() == "jax" and technique != "masked":
        # From JAX Keras exports the names "kernel" and "raw_threshold" without their layers. A mask needs no partner.
        with pytest.raises(
            CheckpointError, match="without names of layers, with several tensors 'kernel': give the .keras file"
        ):
            checkpoint_sparsity(tmp_path / "exported")
        return
    result = checkpoint_sparsity(tmp_path / "exported")
    assert result.size == sum(weight.size for weight in get_sparse_weights(model))
    assert result.nonzeros == sum(weight.count() for weight in get_sparse_weights(model))
    assert 0 < result.nonzeros < result.size


# Masks and values.


@pytest.mark.parametrize("form", ["model.keras", "model.weights.h5"])
def test_live_weights_that_are_zero_are_counted_beside_the_masks(tmp_path, form):
    kernel = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]], "float32")
    path = save_keras(
        tmp_path / form,
        {
            "masked": {"kernel": kernel, "mask": MASK > 0},
            "l0": {"kernel": kernel, "log_alpha": np.where(MASK > 0, 5.0, -5.0).astype("float32")},
            "vd": {"kernel": kernel, "log_sigma2": np.where(MASK > 0, -30.0, 5.0).astype("float32")},
        },
    )
    report = checkpoint_sparsity(path)
    live = int(np.count_nonzero(kernel[MASK > 0]))
    assert 0 < live < 3
    assert [(row.nonzeros, row.nonzero_values) for row in report.rows] == [(3, live)] * 3
    assert (report.nonzeros, report.nonzero_values, report.sparsity_of_values) == (9, 3 * live, 1 - 3 * live / 18)
    assert report.to_dict()["nonzero_values"] == 3 * live and report.to_dict()["tensors"][0]["nonzero_values"] == live


@pytest.mark.parametrize(
    "beside",
    [
        {"mask": np.ones((1, 2), bool)},
        {"log_alpha": np.ones((1, 2), "float32")},
        {"log_sigma2": np.ones((1, 2), "float32")},
        {"raw_threshold": np.float32(-3)},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_a_diverged_net_is_refused_whatever_made_it_sparse(tmp_path, beside):
    path = save_keras(tmp_path / "model.keras", {"dense": {"kernel": NAN, **beside}})
    with pytest.raises(ValueError, match="Tensor 'dense/kernel' of .* holds NaN"):
        checkpoint_sparsity(path)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_quantized_weights_are_refused_in_one_sentence(tmp_path, mode, suffix):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8), keras.layers.LayerNormalization()])
    model.layers[0].quantize(mode)
    path = tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    with pytest.raises(CheckpointError, match="holds quantized weights.*Count before `quantize`, or load the model"):
        checkpoint_sparsity(path)
