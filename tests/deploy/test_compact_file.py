"""`save_compact`: a small `.keras` file that stock Keras reads to the same bits."""

import os
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.checkpoints.keras_files import open_keras_archive
from sparsity_tf.deploy import compact_file, save_compact
from sparsity_tf.layers import get_sparse_weights
from tests import fresh_process
from tests.deploy.models import predictions, randomize


def values(model):
    return [ops.convert_to_numpy(variable) for variable in model.variables]


def assert_same_bits(model, other):
    for one, two in zip(values(model), values(other), strict=True):
        assert (one.dtype, one.tobytes()) == (two.dtype, two.tobytes())


def net(technique="masked", units=256, sparsity=0.9):
    """A trained, masked network as a user has it: pruned by magnitude, with the slots of Adam."""
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(units, "relu"), layers.Dense(units, "relu"), layers.Dense(10)]
    )
    if technique == "masked":
        sparsity_tf.sparsify(model, "masked")
        for weight in get_sparse_weights(model):
            magnitudes = np.abs(ops.convert_to_numpy(weight.variable))
            weight.assign_mask(magnitudes > np.quantile(magnitudes, sparsity))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
    model.fit(x, x[:, :10], epochs=2, batch_size=16, verbose=0)
    return model


@pytest.fixture(scope="module")
def masked():
    return net()


def test_ninety_percent_zeros_take_a_tenth_of_the_place_and_load_without_this_package(masked, tmp_path):
    path = tmp_path / "small.keras"
    file = save_compact(masked, path)
    dense = sparsity_tf.to_dense(masked)
    dense.save(tmp_path / "stock.keras")
    assert file.bytes == os.path.getsize(path)
    assert abs(file.stored_bytes - os.path.getsize(tmp_path / "stock.keras")) < 200
    # Names, shapes and biases of so small a net weigh more than those of a real one.
    assert file.ratio == file.stored_bytes / file.bytes > 7
    assert f"{file.bytes:,} bytes" in str(file)
    x = np.random.default_rng(1).normal(size=(4, 64)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        "outputs = keras.ops.convert_to_numpy(model(np.load('x.npy')))\n"
        "np.save('y.npy', outputs)\n"
        "assert 'sparsity_tf' not in sys.modules\n"
    )
    finished = fresh_process.run(code, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), predictions(masked, x)[0], rtol=1e-5, atol=1e-6)
    assert_same_bits(dense, keras.saving.load_model(path))


@pytest.mark.parametrize("compression", ["bzip2", "deflate"])
def test_masks_and_optimizer_come_back_to_the_bit(masked, tmp_path, compression):
    path = tmp_path / "training.keras"
    save_compact(masked, path, masks=True, optimizer=True, compression=compression)
    loaded = keras.saving.load_model(path)
    assert_same_bits(masked, loaded)
    assert_same_bits(masked.optimizer, loaded.optimizer)
    assert [w.count() for w in get_sparse_weights(loaded)] == [w.count() for w in get_sparse_weights(masked)]
    with zipfile.ZipFile(path) as archive:
        [weights] = [member for member in archive.infolist() if member.filename == "model.weights.h5"]
    assert weights.compress_type == {"bzip2": zipfile.ZIP_BZIP2, "deflate": zipfile.ZIP_DEFLATED}[compression]


def test_masks_without_the_optimizer(masked, tmp_path):
    path = tmp_path / "masks.keras"
    with_optimizer = save_compact(masked, tmp_path / "all.keras", masks=True, optimizer=True)
    file = save_compact(masked, path, masks=True)
    assert file.stored_bytes < 0.5 * with_optimizer.stored_bytes
    loaded = keras.saving.load_model(path)
    assert getattr(loaded, "optimizer", None) is None and not loaded.compiled
    assert_same_bits(masked, loaded)
    assert get_sparse_weights(loaded)


def test_a_dense_model_is_stored_and_keeps_its_bits(tmp_path):
    model = net("none")
    file = save_compact(model, tmp_path / "dense.keras", optimizer=True)
    with zipfile.ZipFile(tmp_path / "dense.keras") as archive:
        kinds = {member.filename: member.compress_type for member in archive.infolist()}
    # Its weights would gain less than a tenth; its config gains more.
    assert kinds["model.weights.h5"] == zipfile.ZIP_STORED
    assert kinds["config.json"] == zipfile.ZIP_BZIP2
    assert 1 <= file.ratio < 1.1
    loaded = keras.saving.load_model(tmp_path / "dense.keras")
    assert_same_bits(model, loaded)
    assert_same_bits(model.optimizer, loaded.optimizer)


def test_the_model_is_left_as_it_is(masked, tmp_path):
    before = values(masked) + values(masked.optimizer)
    save_compact(masked, tmp_path / "a.keras")
    save_compact(masked, tmp_path / "b.keras", codebook_bits=3)
    for one, two in zip(before, values(masked) + values(masked.optimizer), strict=True):
        np.testing.assert_array_equal(one, two)
    assert get_sparse_weights(masked)


def test_half_precision_and_nested_models_are_kept(tmp_path):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5, dtype="bfloat16"), layers.BatchNormalization()])
    inputs = keras.Input((6,))
    outputs = inner(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(outputs)))
    sparsity_tf.sparsify(model, "masked")
    save_compact(model, tmp_path / "m.keras", masks=True)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for one, two in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*(ops.convert_to_numpy(ops.cast(v, "float32")) for v in (one, two)))


@pytest.mark.tensorflow
def test_vocabularies_are_kept(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")
    model = keras.Model(inputs, layers.Dense(2)(lookup(inputs)))
    save_compact(model, tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[1].get_vocabulary() == lookup.get_vocabulary()


def test_shared_weights_keep_zeros_and_signs_and_are_few(masked, tmp_path):
    plain = save_compact(masked, tmp_path / "plain.keras")
    file = save_compact(masked, tmp_path / "shared.keras", codebook_bits=3)
    assert file.bytes < 0.6 * plain.bytes
    for one, two in zip(sparsity_tf.to_dense(masked).layers, keras.saving.load_model(file.path).layers, strict=True):
        kernel, shared = (ops.convert_to_numpy(layer.kernel) for layer in (one, two))
        np.testing.assert_array_equal(np.sign(shared), np.sign(kernel))
        assert len(np.unique(shared[shared != 0])) == 7
        assert np.abs(shared - kernel).max() < 0.3 * np.abs(kernel).max()
        np.testing.assert_array_equal(*(ops.convert_to_numpy(layer.bias) for layer in (one, two)))


def test_a_file_that_readers_would_take_for_an_attack_is_padded(tmp_path, monkeypatch):
    monkeypatch.setattr(compact_file, "_SUSPICIOUS_BYTES", 1 << 20)
    model = keras.Sequential([keras.Input((1024,)), layers.Dense(1024, use_bias=False)])
    model.layers[0].kernel.assign(np.eye(1024))
    file = save_compact(model, tmp_path / "m.keras")
    with zipfile.ZipFile(file.path) as archive:
        [weights] = [member for member in archive.infolist() if member.filename == "model.weights.h5"]
    assert 50 < weights.file_size / weights.compress_size < 100
    assert_same_bits(model, keras.saving.load_model(file.path))
    with open_keras_archive(file.path) as checkpoint:
        assert len(checkpoint.names()) == 1


def refuse(match, *arguments, **options):
    with pytest.raises(ValueError, match=match):
        save_compact(*arguments, **options)


def test_bad_input_is_refused_and_nothing_appears(masked, tmp_path):
    path = tmp_path / "m.keras"
    refuse("`model` must be a Keras model", layers.Dense(3), path)
    refuse("`model` must be built", keras.Sequential([layers.Dense(3)]), path)
    refuse("ends in .keras", masked, tmp_path / "m.h5")
    refuse("in a folder that exists", masked, tmp_path / "missing" / "m.keras")
    refuse("`path` must be a path", masked, None)
    refuse("`masks` must be True or False", masked, path, masks="no")
    refuse("`optimizer` must be True or False", masked, path, optimizer=1)
    refuse("`compression` must be one of.*'zstd'", masked, path, compression="zstd")
    refuse("`codebook_bits` must be an integer of at least 2 and at most 8", masked, path, codebook_bits=1)
    refuse("`masks` and `optimizer` must be False with `codebook_bits`", masked, path, codebook_bits=4, masks=True)
    refuse("`masks` must be True with `optimizer=True` for a sparse model", masked, path, optimizer=True)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_old_file(masked, tmp_path, monkeypatch):
    path = tmp_path / "m.keras"
    path.write_text("mine")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(compact_file, "_pack", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_compact(masked, path)
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["m.keras"]
    monkeypatch.undo()
    save_compact(masked, path)
    assert_same_bits(sparsity_tf.to_dense(masked), keras.saving.load_model(path))
