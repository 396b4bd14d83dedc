"""Sparse files become dense ones that predict the same, or nothing at all appears."""

import json
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers as kl

import sparsity_tf
from sparsity_tf import models
from sparsity_tf.tools import command, convert
from tests.layers.layer_checks import make_half_sparse

pytestmark = pytest.mark.tensorflow


def sparse_net(technique, **options):
    inputs = kl.Input((6, 6, 1))
    x = kl.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, kl.Dense(3, name="logits")(kl.Flatten()(kl.BatchNormalization()(x))))
    sparsity_tf.sparsify(model, technique, **options)
    for name in ("conv", "logits"):
        make_half_sparse(model.get_layer(name))
    return model


@pytest.fixture
def run(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = convert.main(["convert", *(str(argument) for argument in arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path):
    """The arguments of a conversion of `model`, and the path of its output."""

    def files(model):
        model.save(tmp_path / "sparse.keras")
        return [f"--checkpoint={tmp_path / 'sparse.keras'}", f"--output={tmp_path / 'dense.keras'}"]

    files.output = tmp_path / "dense.keras"
    return files


@pytest.mark.parametrize("technique", ["masked", "vd", "l0", "str", "dnw"])
def test_every_technique_becomes_plain_keras(run, files, technique):
    model = sparse_net(technique)
    status, out, err = run(*files(model))
    assert (status, err) == (0, "")
    dense = keras.saving.load_model(files.output)
    assert {type(layer).__module__.partition(".")[0] for layer in dense.layers} == {"keras"}
    with zipfile.ZipFile(files.output) as archive:
        assert b"sparsity_tf" not in archive.read("config.json")
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")
    np.testing.assert_array_equal(dense(x), model(x))
    for weight in sparsity_tf.get_sparse_weights(model):
        kernel = dense.get_layer(weight.layer.name).kernel.numpy()
        assert np.count_nonzero(kernel) == weight.count() < weight.size
    assert out.splitlines()[-1] == f"{files.output}: dense"


def test_the_threshold_of_variational_dropout_can_be_moved(run, files):
    model = sparse_net("vd")
    layer = model.get_layer("logits")
    layer.kernel.assign(np.ones(layer.kernel.shape))
    layer.log_sigma2.assign(np.linspace(-4, 4, 192).reshape(64, 3))  # log alpha, as the weights are 1
    arguments = files(model)
    for threshold, live in ((0.0, 96), (-4.5, 0), (4.5, 192)):
        assert run(*arguments, f"--log_alpha_threshold={threshold}", "--overwrite")[0] == 0
        kernel = keras.saving.load_model(files.output).get_layer("logits").kernel.numpy()
        assert np.count_nonzero(kernel) == live
    status, _, err = run(*files(sparse_net("masked")), "--log_alpha_threshold=1", "--overwrite")
    assert (status, "--log_alpha_threshold needs a network with variational dropout" in err) == (1, True)


def test_an_output_is_never_replaced_unasked(run, files):
    arguments = files(sparse_net("masked"))
    files.output.write_text("mine")
    status, _, err = run(*arguments)
    assert (status, files.output.read_text()) == (1, "mine")
    assert "is there already: pass --overwrite" in err
    assert run(*arguments, "--overwrite")[0] == 0
    assert keras.saving.load_model(files.output)
    status, _, err = run(arguments[0], arguments[0].replace("checkpoint", "output"), "--overwrite")
    assert (status, "must not be the checkpoint itself" in err) == (1, True)


def test_nothing_appears_when_predictions_differ(run, files, monkeypatch):
    def wrong(model):
        dense = sparsity_tf.to_dense(model)
        dense.get_layer("logits").bias.assign([0.1, 0.0, 0.0])
        return dense

    monkeypatch.setattr(sys.modules["sparsity_tf.to_dense"], "to_dense", wrong)
    arguments = files(sparse_net("masked"))
    status, out, err = run(*arguments)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "does not predict the same" in err
    assert [path.name for path in files.output.parent.iterdir()] == ["sparse.keras"]


def test_attention_embeddings_and_mixed_precision_are_compared(run, files):
    keras.config.set_dtype_policy("mixed_bfloat16")
    inputs = kl.Input((7,))  # Keras's default: token numbers as floats
    x = kl.Embedding(5, 8, name="embedding")(inputs)
    x = kl.MultiHeadAttention(2, 4, name="attention")(x, x)
    model = keras.Model(inputs, kl.Dense(3, name="logits")(x))
    sparsity_tf.sparsify(model, "masked")
    status, _, err = run(*files(model))
    assert (status, err) == (0, "")


def test_open_shapes_are_asked_for(run, files):
    inputs = kl.Input((None, None, 1))
    model = keras.Model(inputs, kl.Conv2D(2, 3, name="conv")(inputs))
    arguments = files(sparsity_tf.sparsify(model, "masked"))
    status, _, err = run(*arguments)
    assert (status, files.output.exists()) == (1, False)
    assert "--input_shape is needed" in err
    assert run(*arguments, "--input_shape=5,4,1")[0] == 0


@pytest.mark.parametrize("kind", ["characters", "features", "transformer"])
def test_sequences_of_any_length_need_no_shape(run, files, kind):
    if kind == "characters":
        model = models.CharRNN(20, hidden_size=4, depth=1, technique="masked")
    elif kind == "transformer":
        model = models.Transformer(20, 1, 8, 16, 2, technique="masked")
    else:
        inputs = kl.Input((None, 3))
        model = sparsity_tf.sparsify(keras.Model(inputs, kl.Conv1D(2, 3, name="conv")(inputs)), "masked")
    status, _, err = run(*files(model))
    assert (status, files.output.exists()) == (0, True), err


def test_layers_that_stay_are_named(run, files):
    model = models.cifar_resnet(8, spatial_mask="structured", technique="masked")
    status, _, err = run(*files(model))
    assert status == 0
    assert "still needs `import sparsity_tf` to load, for SparseActivation, SparseBatchNormalization" in err


def test_what_cannot_be_converted_is_said_in_one_line(run, files, tmp_path):
    dense = keras.Sequential([kl.Input((3,)), kl.Dense(2)])
    diverged = sparse_net("masked")
    diverged.get_layer("conv").kernel.assign(np.full((3, 3, 1, 4), np.nan))
    for model, message in ((dense, "it is a dense network already"), (diverged, "the network diverged")):
        status, out, err = run(*files(model))
        assert (status, out, len(err.splitlines()), files.output.exists()) == (1, "", 1, False)
        assert message in err
    (tmp_path / "sparse.keras").write_bytes(b"cut off")
    arguments = [f"--checkpoint={tmp_path / 'sparse.keras'}", f"--output={files.output}"]
    status, _, err = run(*arguments)
    assert (status, "can't be loaded" in err) == (1, True)


def _with_config(path, config):
    """The file of a sparse network with another `config.json`: a function of the one that it has."""
    sparse_net("masked").save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = json.dumps(config(json.loads(members["config.json"])))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _without(config, *keys):
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return config


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda config: {}, "config.json"),
        (lambda config: [], "config.json"),
        (lambda config: None, "config.json"),
        (lambda config: _without(config, "config"), "config.json"),
        (lambda config: _without(config, "config", "layers"), "config.json is not that of a Keras model"),
        (lambda config: {"class_name": "Sequential", "module": "keras", "config": {"name": "a"}}, "KeyError: 'layers'"),
        (lambda config: {**config, "class_name": "Unheard", "module": None, "registered_name": "Unheard"}, "Unheard"),
        (
            lambda config: {**config, "config": {**config["config"], "name": 5, "x" * 9000: "y" * 9000}},
            "`name` must be",
        ),
    ],
)
def test_a_file_that_cannot_be_loaded_is_one_short_line_with_its_reason(run, tmp_path, config, reason):
    path = tmp_path / "odd.keras"
    _with_config(path, config)
    status, out, err = run(f"--checkpoint={path}", f"--output={tmp_path / 'dense.keras'}")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"convert: error: {path} can't be loaded: ") and reason in err
    assert len(err) < 700
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--output=d.keras"], 2, "Flag --checkpoint is required"),
        (["--checkpoint=s.keras"], 2, "Flag --output is required"),
        (["--checkpoint=s.keras", "--output=d.h5"], 1, "--output must end in .keras. Received: d.h5"),
        (["--checkpoint=s.keras", "--output=no/d.keras"], 1, "the folder of --output does not exist"),
        (["--checkpoint=s.keras", "--output=d.keras"], 1, "s.keras does not exist"),
        (["--checkpoint=s.keras", "--output=d.keras", "--log_alpha_threshold=nan"], 2, "must be a finite number"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, status, message):
    got, out, err = run(*arguments)
    assert (got, out, len(err.splitlines())) == (status, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("text", "shape"), [("16", (16,)), ("32,32,3", (32, 32, 3)), ("[16],[8,2]", [[16], [8, 2]]), (None, None)]
)
def test_shapes_of_flags(text, shape):
    assert command.parse_shape(text) == shape


def test_the_file_is_compact_unless_told_otherwise(run, files):
    arguments = files(sparse_net("masked", structure="filter"))
    assert run(*arguments)[0] == 0
    compact = files.output.stat().st_size
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")
    outputs = keras.saving.load_model(files.output)(x)
    assert run(*arguments, "--overwrite", "--nocompact")[0] == 0
    assert compact < 0.9 * files.output.stat().st_size
    np.testing.assert_array_equal(keras.saving.load_model(files.output)(x), outputs)


def test_a_shrunk_network_is_smaller_and_predicts_the_same(run, files):
    model = sparse_net("masked")
    conv = model.get_layer("conv")
    mask = np.ones(conv.kernel.shape, bool)
    mask[..., :2] = False
    sparsity_tf.get_sparse_weights(model)[0].assign_mask(mask)
    status, out, err = run(*files(model), "--shrink")
    assert (status, err) == (0, "")
    small = keras.saving.load_model(files.output)
    assert small.count_params() < model.count_params()
    assert f"-> {small.count_params():,} parameters" in out
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_another_format_is_written_and_checked(run, files, tmp_path):
    checkpoint = files(sparse_net("masked"))[0]
    status, out, err = run(checkpoint, f"--output={tmp_path / 'm.tflite'}", "--format=litert")
    assert (status, err) == (0, "")
    assert "largest difference in its runtime" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite", "sparse.keras"]
    status, _, err = run(checkpoint, f"--output={tmp_path / 'm.keras'}", "--format=litert")
    assert (status, "--output must end in .tflite" in err) == (1, True)
    status, _, err = run(checkpoint, f"--output={tmp_path / 'm.pt2'}", "--format=torch")
    assert (status, "torch backend of Keras" in err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tflite", "sparse.keras"]


def test_a_saved_model_of_a_sparse_or_dense_network_is_a_folder(run, files, tmp_path):
    """What the programs of TensorFlow 1 exported while they trained."""
    import tensorflow as tf

    dense = keras.Sequential([keras.Input((4,)), kl.Dense(3)])
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    sparse = sparsity_tf.prune(keras.models.clone_model(dense), 0.5)
    for name, model in (("dense", dense), ("sparse", sparse)):
        checkpoint, output = files(model)[0], tmp_path / name
        assert run(checkpoint, f"--output={output}", "--format=tf_saved_model")[0] == 0
        exported = tf.saved_model.load(str(output))
        np.testing.assert_allclose(exported.serve(x), model(x), atol=1e-6)
        status, _, err = run(checkpoint, f"--output={output}", "--format=tf_saved_model")
        assert (status, "is there already: pass --overwrite" in err) == (1, True)
    assert run(checkpoint, f"--output={output}", "--format=tf_saved_model", "--overwrite")[0] == 0
    (tmp_path / "mine").mkdir()
    status, _, err = run(checkpoint, f"--output={tmp_path / 'mine'}", "--format=tf_saved_model", "--overwrite")
    assert (status, "must be a new folder, or one that holds a SavedModel" in err) == (1, True)
    # A dense network in Keras's own format is what it would become.
    status, _, err = run(*files(dense))
    assert (status, "it is a dense network already" in err) == (1, True)
