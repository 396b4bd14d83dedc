"""The budget of a trained network, from the command line into a file and from the file into other trainings."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sparsity_tf
from sparsity_tf import callbacks, inspection, layers
from sparsity_tf.distributions import TensorSpec, budgets
from sparsity_tf.masks import number_of_zeros
from sparsity_tf.tools import budget as command

pytestmark = pytest.mark.tensorflow

SIZES = {"stem": 72, "conv": 576, "logits": 24}


def small_net(names=tuple(SIZES)):
    inputs = kl.Input((8, 8, 1))
    x = kl.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name=names[0])(inputs)
    x = kl.Conv2D(8, 3, padding="same", activation="relu", name=names[1])(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, kl.Dense(3, name=names[2])(x))


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 32)


def fit(model, *added, epochs=1):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, jit_compile=False)
    model.fit(*data(), batch_size=8, epochs=epochs, verbose=0, callbacks=list(added))
    return model


def zeros(model):
    return {weight.path: weight.size - weight.count() for weight in sparsity_tf.get_sparse_weights(model)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An STR net after some training, its file, and its zeros in the order of the layers."""
    keras.utils.set_random_seed(0)
    decay = keras.regularizers.L2(0.02)
    options = {"threshold_initializer": -3.0, "threshold_regularizer": decay}
    model = fit(sparsity_tf.sparsify(small_net(), "str", **options), epochs=3)
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    model.save(path)
    counts = list(zeros(model).values())
    assert all(0 < count < size for count, size in zip(counts, SIZES.values(), strict=True))
    return model, path, counts


@pytest.fixture(scope="module")
def budget_file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "budget.csv"
    assert command.main(["budget", f"--checkpoint={trained[1]}", f"--output={path}"]) == 0
    return path


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = command.main(["budget", *arguments])
        return status, *capsys.readouterr()

    return run


def test_the_file_has_strs_layout(trained, budget_file):
    model, _, counts = trained
    lines = [line.split(",") for line in budget_file.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == ["Metric", "Params", "FLOPs", "Sparsity (%)"]
    assert [line[0] for line in lines[1:]] == [
        "Overall",
        "Backbone",
        *(f"Layer {index} - {name}" for index, name in enumerate(SIZES, start=1)),
        "AP - pool",
    ]
    assert [int(line[1]) for line in lines[1:]] == [672, 648, *SIZES.values(), 0]
    # 4 x 4 positions; the pooling adds up 16 positions of 8 channels.
    costs = [72 * 16, 576 * 16, 24, 128]
    assert [int(line[2]) for line in lines[1:]] == [sum(costs), sum(costs) - 24, *costs]
    assert int(lines[1][2]) == inspection.count_flops(model).dense
    assert lines[1][3] == f"{100 * sum(counts) / 672:.2f}"
    assert lines[2][3] == f"{100 * sum(counts[:2]) / 648:.2f}"


def test_the_file_stands_for_the_exact_counts(trained, budget_file):
    budget = budgets.read_csv(budget_file)
    assert budget.sizes == SIZES
    assert [number_of_zeros(s, SIZES[name]) for name, s in budget.items()] == trained[2]


def discovered_wirings(model, path):
    sparsity_tf.sparsify(model, "dnw")
    layers.set_sparsities(model, path)
    return fit(model)


def trained_with(make):
    return lambda model, path: fit(sparsity_tf.sparsify(model, "masked"), make(path), epochs=2)


TRANSFERS = {
    "dnw": discovered_wirings,
    "gmp": trained_with(lambda path: callbacks.MagnitudePruning(0.5, end_step=6, frequency=2, distribution=path)),
    "rigl": trained_with(lambda path: callbacks.RigL(0.5, frequency=2, distribution=path)),
    "set": trained_with(lambda path: callbacks.SET(0.5, frequency=2, distribution=path)),
    "static": trained_with(lambda path: callbacks.StaticSparsity(0.5, distribution=path)),
}


@pytest.mark.parametrize("technique", list(TRANSFERS))
def test_every_transfer_gives_exactly_the_counts_of_the_budget(trained, budget_file, technique):
    # Other names: the layers are matched by their order and sizes.
    names = ("a", "b", "c") if technique == "gmp" else tuple(SIZES)
    model = TRANSFERS[technique](small_net(names), str(budget_file))
    assert list(zeros(model).values()) == trained[2]


def test_a_transfer_to_discovered_wirings_is_saved_with_the_model(trained, budget_file, tmp_path):
    model = sparsity_tf.sparsify(small_net(), "dnw")
    layers.set_sparsities(model, budgets.read_csv(budget_file))
    model.save(tmp_path / "dnw.keras")
    loaded = keras.saving.load_model(tmp_path / "dnw.keras")
    assert list(zeros(loaded).values()) == trained[2]


def test_a_dense_network_gives_the_zeros_of_its_kernels(run, trained, tmp_path):
    sparsity_tf.to_dense(trained[0]).save(tmp_path / "dense.keras")
    output = tmp_path / "budget.csv"
    status, out, err = run(f"--checkpoint={tmp_path / 'dense.keras'}", f"--output={output}")
    assert status == 0
    assert "note: the network has no sparse layers" in err
    budget = budgets.read_csv(output)
    assert [number_of_zeros(s, SIZES[name]) for name, s in budget.items()] == trained[2]
    assert out.splitlines()[-1] == f"{output}: 3 layers"


def test_a_budget_is_shown_and_checked_against_a_network(run, trained, budget_file, tmp_path):
    status, out, _ = run(f"--input={budget_file}")
    assert status == 0
    assert out.splitlines()[0].split() == ["layer", "size", "non-zeros", "sparsity"]
    assert out.splitlines()[2].split()[:3] == ["stem", "72", str(72 - trained[2][0])]
    sparsity_tf.sparsify(small_net(("a", "b", "c")), "masked").save(tmp_path / "other.keras")
    status, out, _ = run(f"--input={budget_file}", f"--model={tmp_path / 'other.keras'}")
    assert status == 0
    assert out.splitlines()[2].split()[:4] == ["stem", "a/kernel", "72", str(72 - trained[2][0])]
    live = [size - count for size, count in zip(SIZES.values(), trained[2], strict=True)]
    macs = 16 * live[0] + 16 * live[1] + live[2] + 128
    assert f"{16 * 72 + 16 * 576 + 24 + 128:,} dense, {macs:,} without the zeros" in out
    assert out.splitlines()[-1].startswith("the budget fits")


def test_a_budget_that_does_not_fit_is_refused(run, budget_file):
    status, _, err = run(f"--input={budget_file}", "--model=lenet_300_100")
    assert status == 1
    assert "`tensors` must fit the budget" in err
    assert len(err.splitlines()) == 1


def test_a_builder_takes_options(run, tmp_path):
    budgets.write_csv(tmp_path / "b.csv", budgets.Budget({"1": 0.5, "2": 0.25}))
    arguments = (f"--input={tmp_path / 'b.csv'}", "--model=mnist_mlp")
    assert run(*arguments, '--model_options={"hidden": [20]}')[0] == 0
    status, _, err = run(*arguments, '--model_options={"depth": 20}')
    assert status == 2
    assert "--model_options does not fit mnist_mlp" in err


def test_open_shapes_leave_flops_out_unless_given(run, tmp_path):
    inputs = kl.Input((None, None, 1))
    model = keras.Model(inputs, kl.Conv2D(4, 3, name="conv")(inputs))
    sparsity_tf.sparsify(model, "masked").save(tmp_path / "open.keras")
    arguments = (f"--checkpoint={tmp_path / 'open.keras'}", "--overwrite", f"--output={tmp_path / 'b.csv'}")
    status, _, err = run(*arguments)
    assert (status, "FLOPs are left out" in err) == (0, True)
    assert (tmp_path / "b.csv").read_text().splitlines()[1:] == ["Overall,36,,0.00", "Layer 1 - conv,36,,0.00"]
    status, out, _ = run(*arguments, "--input_shape=6,6,1")
    assert (status, "576 dense" in out) == (0, True)


def test_an_output_is_never_replaced_unasked(run, trained, tmp_path):
    output = tmp_path / "budget.csv"
    output.write_text("mine")
    arguments = (f"--checkpoint={trained[1]}", f"--output={output}")
    status, _, err = run(*arguments)
    assert (status, output.read_text()) == (1, "mine")
    assert "pass --overwrite" in err
    assert run(*arguments, "--overwrite")[0] == 0
    assert output.read_text().startswith("Metric,")
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "One of the flags --checkpoint and --input is required"),
        (["--checkpoint=a.keras", "--input=b.csv"], 2, "One of the flags"),
        (["--checkpoint=a.keras", "--column=90.23"], 2, "Flag --column has no meaning with --checkpoint"),
        (["--input=b.csv", "--output=c.csv"], 2, "Flag --output has no meaning with --input"),
        (["--checkpoint=a.keras", "--input_shape=3,x"], 2, "Flag --input_shape must be positive integers"),
        (["--checkpoint=missing.keras"], 1, "missing.keras does not exist"),
        (["--checkpoint=a.keras", "--output=b.txt"], 1, "--output must end in .csv"),
        (["--input=missing.csv"], 1, "missing.csv"),
        (["--input=b.csv", "rest"], 2, "Unexpected argument: rest"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, status, message):
    got, out, err = run(*arguments)
    assert (got, out, len(err.splitlines())) == (status, "", 1)
    assert message in err


def test_a_diverged_network_has_no_budget(run, tmp_path):
    model = sparsity_tf.sparsify(small_net(), "masked")
    model.get_layer("conv").kernel.assign(np.full((3, 3, 8, 8), np.nan))
    model.save(tmp_path / "diverged.keras")
    status, _, err = run(f"--checkpoint={tmp_path / 'diverged.keras'}")
    assert (status, "the network diverged" in err) == (1, True)


def test_help(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "--column" in out


def test_percents_get_the_decimals_that_exact_counts_need(tmp_path):
    counts = {"a": (1, 3), "b": (123_456, 1_000_003), "c": (0, 7), "d": (7, 7), "e": (598, 1000)}
    budget = budgets.Budget({n: z / s for n, (z, s) in counts.items()}, {n: s for n, (z, s) in counts.items()})
    exact = {n: number_of_zeros(budget[n], s) for n, (_, s) in counts.items()}
    budgets.write_str_csv(tmp_path / "b.csv", budget)
    again = budgets.read_csv(tmp_path / "b.csv")
    assert {n: number_of_zeros(again[n], again.sizes[n]) for n in again} == exact
    written = [line.split(",")[3] for line in (tmp_path / "b.csv").read_text().splitlines()[3:]]
    assert written[2:] == ["0.00", "100.00", "59.80"]


def test_bad_budgets_and_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`budget` must be a `Budget` with sizes"):
        budgets.write_str_csv(tmp_path / "b.csv", budgets.Budget({"a": 0.5}))
    with pytest.raises(ValueError, match="`flops` must have the names"):
        budgets.write_str_csv(tmp_path / "b.csv", budgets.Budget({"a": 0.5}, {"a": 4}), flops={})
    with pytest.raises(ValueError, match="`model` must have layers of the technique 'discovering_wirings'"):
        layers.set_sparsities(sparsity_tf.sparsify(small_net(), "masked"), "uniform", 0.5)
    model = sparsity_tf.sparsify(small_net(), "dnw")
    full = budgets.Budget({"stem": 0.5, "conv": 1.0, "logits": 0.0})
    with pytest.raises(
        ValueError, match="must leave at least one weight in every layer. Received: a sparsity of 1 for"
    ):
        layers.set_sparsities(model, full)
    assert layers.set_sparsities(model, "uniform", 0.5)["conv/kernel"] == 0.5
    assert [TensorSpec(w.path, w.shape).path for w in sparsity_tf.get_sparse_weights(model)] == [
        f"{name}/kernel" for name in SIZES
    ]
