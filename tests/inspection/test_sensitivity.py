"""Each weight is pruned alone and measured; the model comes back to the bit, whatever happens."""

import csv

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sparsity_tf
from sparsity_tf.inspection import SensitivityRow, SensitivityTable, sensitivity
from sparsity_tf.masks import number_to_keep

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(20, 4)).astype("float32"), RNG.integers(0, 3, 20)
FIRST, SECOND = RNG.normal(size=(4, 5)).astype("float32"), RNG.normal(size=(5, 3)).astype("float32")
SPARSITIES = (0.25, 0.6)


def make_model(compiled=True):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            kl.Dense(5, activation="relu", use_bias=False, name="first"),
            kl.Dense(3, use_bias=False, name="second"),
        ]
    )
    model.set_weights([FIRST, SECOND])
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"], jit_compile=False)
    return model


@pytest.fixture(scope="module")
def shared():
    """One compiled model for all tests: it is to come back as it was."""
    model = make_model()
    model.evaluate(X, Y, verbose=0)  # Makes the metrics.
    return model


def pruned(weight, sparsity):
    """Zeros the smallest, by a sort."""
    found = weight.copy().reshape(-1)
    found[np.argsort(-abs(found), kind="stable")[number_to_keep(sparsity, found.size) :]] = 0
    return found.reshape(weight.shape)


def by_hand(first, second):
    """(accuracy, loss) in double precision."""
    logits = np.maximum(X.astype("float64") @ first, 0) @ second
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(20), Y]
    return (logits.argmax(1) == Y).mean(), loss.mean()


def everything(model):
    variables = [*model.variables, *getattr(model, "metrics_variables", ())]
    return [(id(v), np.array(ops.convert_to_numpy(v)).tobytes()) for v in variables]


@pytest.mark.parametrize("metric, index", [(None, 0), ("accuracy", 0), ("loss", 1)])
def test_values_are_those_by_hand(shared, metric, index):
    table = sensitivity(shared, (X, Y), SPARSITIES, metric)
    assert (table.metric, table.sparsities) == (metric or "accuracy", SPARSITIES)
    assert table.baseline == pytest.approx(by_hand(FIRST, SECOND)[index], rel=1e-5)
    assert [(row.name.split("/")[-2], row.size, row.zeros) for row in table] == [
        ("first", 20, (5, 12)),
        ("second", 15, (4, 9)),
    ]
    for sparsity, first, second in zip(SPARSITIES, *(row.values for row in table), strict=True):
        assert first == pytest.approx(by_hand(pruned(FIRST, sparsity), SECOND)[index], rel=1e-5)
        assert second == pytest.approx(by_hand(FIRST, pruned(SECOND, sparsity))[index], rel=1e-5)


def test_the_model_comes_back_to_the_bit():
    inputs = keras.Input((4,))
    hidden = kl.BatchNormalization()(kl.Dropout(0.5)(kl.Dense(5, name="first")(inputs)))
    model = keras.Model(inputs, kl.Dense(3, name="second")(hidden))
    kernel = FIRST.copy()
    kernel[0, :2] = -0.0, 1e-42  # A negative zero and a number that arithmetic would lose.
    model.get_layer("first").kernel.assign(kernel)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"], jit_compile=False)
    model.fit(X, Y, verbose=0)
    model.evaluate(X[:5], Y[:5], verbose=0)
    before, config = everything(model), model.get_config()
    attributes = {layer.name: (type(layer), set(vars(layer))) for layer in model.layers}
    train_function, optimizer = model.train_function, everything_of(model.optimizer)
    sensitivity(model, (X, Y), SPARSITIES)
    assert everything(model) == before and everything_of(model.optimizer) == optimizer
    assert model.get_config() == config and model.train_function is train_function
    assert {layer.name: (type(layer), set(vars(layer))) for layer in model.layers} == attributes


def everything_of(optimizer):
    return [np.array(ops.convert_to_numpy(v)).tobytes() for v in optimizer.variables]


def test_the_model_comes_back_after_an_error(shared):
    class Failing(keras.utils.PyDataset):
        """Fails in the third evaluation, when a weight is pruned."""

        count = 0

        def __len__(self):
            return 1

        def __getitem__(self, index):
            Failing.count += 1
            if Failing.count > 3:
                raise RuntimeError("the disk is gone")
            return X, Y

    before = everything(shared)
    # Of a class of TensorFlow's own on that backend.
    with pytest.raises(Exception, match="disk"):  # noqa: B017
        sensitivity(shared, Failing(), SPARSITIES)
    assert everything(shared) == before
    assert [type(layer) for layer in shared.layers] == [kl.Dense, kl.Dense]


def test_masked_models_keep_what_is_pruned():
    model = sparsity_tf.prune(make_model(), 0.5, where="first")
    model.evaluate(X, Y, verbose=0)  # Makes the metrics.
    mask = abs(FIRST) >= np.sort(abs(FIRST).reshape(-1))[10]
    before = everything(model)
    table = sensitivity(model, (X, Y), (0.25, 0.6))
    assert everything(model) == before
    [row] = table
    assert row.zeros == (10, 12)
    assert table.baseline == row.values[0] == pytest.approx(by_hand(FIRST * mask, SECOND)[0])
    assert row.values[1] == pytest.approx(by_hand(pruned(FIRST, 0.6), SECOND)[0])


def test_structures(shared):
    table = sensitivity(shared, (X, Y), (0.4,), "loss", structure="filter", where="first")
    [row] = table
    order = np.argsort(-abs(FIRST).mean(0), kind="stable")
    kernel = FIRST.copy()
    kernel[:, order[3:]] = 0
    assert row.zeros == (8,) and row.values[0] == pytest.approx(by_hand(kernel, SECOND)[1], rel=1e-5)
    assert sensitivity(shared, (X, Y), (0.5,), structure="2:4", where="first").rows[0].zeros == (10,)
    with pytest.raises(ValueError, match=r"`sparsities` must be at most 0\.5 with structure '2:4'"):
        sensitivity(shared, (X, Y), (0.6,), structure="2:4", where="first")


def test_metrics_of_ones_own_need_no_compiled_model():
    def probability(y, logits):
        return ops.take_along_axis(ops.softmax(logits), ops.cast(ops.reshape(y, (-1, 1)), "int32"), 1)[:, 0]

    for metric, name in [
        ("sparse_categorical_accuracy", "sparse_categorical_accuracy"),
        (keras.metrics.SparseCategoricalAccuracy(name="top"), "top"),
    ]:
        model = make_model(compiled=False)
        table = sensitivity(model, (X, Y), (0.6,), metric)
        assert table.metric == name and not model.compiled
        assert table.rows[0].values[0] == pytest.approx(by_hand(pruned(FIRST, 0.6), SECOND)[0])
    assert sensitivity(model, (X, Y), (0.6,), probability).metric == "probability"


@pytest.mark.parametrize("kind", ["list", "generator", "dataset"])
def test_data_in_batches(shared, kind):
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    if kind == "dataset":
        if keras.backend.backend() != "tensorflow":
            pytest.skip("a tf.data.Dataset")
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    else:
        data = batches if kind == "list" else (batch for batch in batches)
    table = sensitivity(shared, data, (0.6,))
    assert table.rows[1].values[0] == pytest.approx(by_hand(FIRST, pruned(SECOND, 0.6))[0])


def test_recurrent_layers_have_two_rows():
    model = keras.Sequential([keras.Input((3, 4)), kl.LSTM(2), kl.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    table = sensitivity(model, (RNG.normal(size=(4, 3, 4)), np.zeros((4, 1))), (0.5,))
    assert [row.name.rpartition("/")[2] for row in table] == ["kernel", "recurrent_kernel", "kernel"]
    assert type(model.layers[0]) is kl.LSTM and type(model.layers[0].cell) is kl.LSTMCell


# The table.


@pytest.fixture
def table():
    rows = [SensitivityRow("a/kernel", 1000, (500, 900), (0.75, 0.5)), SensitivityRow("b", 8, (4, 7), (0.7, np.nan))]
    return SensitivityTable(rows, (0.5, 0.9), "accuracy", 0.8)


def test_the_table_can_be_read(table):
    lines = str(table).splitlines()
    assert lines[0].split() == ["weight", "size", "50", "%", "90", "%"]
    assert lines[2].split() == ["a/kernel", "1,000", "0.7500", "0.5000"]
    assert "accuracy" in lines[-1] and "0.8000" in lines[-1]
    assert len(table) == 2 and "accuracy" in repr(table)
    assert table.to_dict()["rows"][0] == {"name": "a/kernel", "size": 1000, "zeros": [500, 900], "values": [0.75, 0.5]}
    assert {k: v for k, v in table.to_dict().items() if k != "rows"} == {
        "metric": "accuracy",
        "baseline": 0.8,
        "sparsities": [0.5, 0.9],
    }


def test_csv(table, tmp_path):
    table.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4
    assert lines[1] == {
        "name": "a/kernel",
        "size": "1000",
        "sparsity": "0.9",
        "zeros": "900",
        "accuracy": "0.5",
        "accuracy_unpruned": "0.8",
    }


def test_the_picture_shows_every_value(table, tmp_path):
    pytest.importorskip("matplotlib")
    figure = table.plot(tmp_path / "picture.png")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.7500", "0.5000", "0.7000", "nan"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a/kernel", "b"]
    assert "0.8000" in axes.get_title(loc="left")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "argument, value",
    [
        ("model", None),
        ("data", X),
        ("data", (X,)),
        ("data", []),
        ("data", [X]),
        ("data", 3),
        ("sparsities", ()),
        ("sparsities", 0.5),
        ("sparsities", (0.5, 1.0)),
        ("sparsities", "0.5"),
        ("metric", "no such metric"),
        ("metric", 3),
        ("structure", "foo"),
        ("where", "no_such_layer"),
        ("batch_size", 0),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(shared, argument, value):
    before = everything(shared)
    with pytest.raises(ValueError, match=f"`{argument}`"):
        sensitivity(**{"model": shared, "data": (X, Y), "sparsities": (0.5,), argument: value})
    assert everything(shared) == before and [type(layer) for layer in shared.layers] == [kl.Dense] * 2


def test_models_that_can_not_be_measured_are_refused():
    with pytest.raises(ValueError, match="`metric` must be given"):
        sensitivity(make_model(compiled=False), (X, Y))
    with pytest.raises(ValueError, match="soft_threshold.*to_dense"):
        sensitivity(sparsity_tf.sparsify(make_model(), "str"), (X, Y))
