"""What a run's folder holds: checkpoints that go on to the bit, also where Keras's own layers draw random numbers."""

import zipfile

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf.train import run_folder


def trained(folder, technique="masked"):
    """A network with Keras's own `Dropout` and `GaussianNoise`, after a step, and its checkpoint in the folder."""
    keras.utils.set_random_seed(0)
    net = [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)]
    model = keras.Sequential([*net, keras.layers.Dense(2)])
    if technique is not None:
        model = sparsity_tf.sparsify(model, technique)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.train_on_batch(*data())
    checkpoint = run_folder.Checkpoint(str(folder))
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0)
    return model


def data():
    random = np.random.default_rng(0)
    return random.normal(size=(8, 6)).astype("float32"), random.normal(size=(8, 2)).astype("float32")


def values(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables + model.optimizer.variables]


def without_draws(folder):
    """Makes of a checkpoint one of a version that did not write down the states of random draws."""
    path = folder / run_folder.CHECKPOINT
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    del members["random_draws.json"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("technique", [None, "vd"])
def test_checkpoint_goes_on_to_the_bit_with_layers_of_keras_that_draw(technique, tmp_path, capsys):
    model = trained(tmp_path, technique)
    restored, done = run_folder.restore(str(tmp_path), 2)
    assert done == 1 and capsys.readouterr().err == ""
    for network in (model, restored):
        network.train_on_batch(*data())
    for ours, others in zip(values(restored), values(model), strict=True):
        np.testing.assert_array_equal(ours, others)


def test_checkpoint_without_states_of_draws_says_that_they_begin_anew(tmp_path, capsys):
    model = trained(tmp_path)
    without_draws(tmp_path)
    restored, done = run_folder.restore(str(tmp_path), 2)
    assert done == 1
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m.layers[0].kernel) for m in (model, restored)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / run_folder.CHECKPOINT} ") and "dropout" in line


def test_checkpoint_of_layers_that_save_their_draws_or_draw_nothing_needs_no_states(tmp_path, capsys):
    net = [keras.Input((2, 3)), keras.layers.LSTM(2), keras.layers.Dense(2), keras.layers.Dropout(0.0)]
    model = sparsity_tf.sparsify(keras.Sequential(net), "vd", where=["dense.*"])
    model.compile("sgd", "mse")
    checkpoint = run_folder.Checkpoint(str(tmp_path))
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0)
    without_draws(tmp_path)
    assert run_folder.restore(str(tmp_path), 1)[1] == 1
    assert capsys.readouterr().err == ""


def test_damaged_states_of_draws_are_called_so(tmp_path):
    trained(tmp_path)
    without_draws(tmp_path)
    sound = (tmp_path / run_folder.CHECKPOINT).read_bytes()
    for content in ("", "{}", "[]", "[[1, 2], [3]]", '[["a", "b"], [1, 2]]', "[[1, 2], [3, 1e400]]"):
        (tmp_path / run_folder.CHECKPOINT).write_bytes(sound)
        with zipfile.ZipFile(tmp_path / run_folder.CHECKPOINT, "a") as archive:
            archive.writestr("random_draws.json", content)
        with pytest.raises(ValueError, match=r"checkpoint.keras is damaged: random_draws.json must list"):
            run_folder.restore(str(tmp_path), 2)
