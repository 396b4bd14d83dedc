"""Any checkpoint opens as named tensors; what is absent or damaged says so in one line."""

import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from sparsity_tf.checkpoints import CheckpointError, open_checkpoint


def save_tensors(prefix, **tensors):
    """Writes a TensorFlow checkpoint with these names; "__" stands for "/"."""
    names = [name.replace("__", "/") for name in tensors]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensor) for tensor in tensors.values()],
    )
    return str(prefix)


def names_of(path):
    with open_checkpoint(path) as checkpoint:
        return checkpoint.names()


def stock_model():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="same")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="same")])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_name_based_checkpoint_lists_variables_without_optimizer_slots(tmp_path):
    weights = np.arange(6, dtype="float32").reshape(2, 3)
    prefix = save_tensors(
        tmp_path / "model.ckpt-7",
        net__weights=weights,
        net__weights__Momentum=weights,
        net__biases=weights[0],
        training__net__weights__Adam_1=weights,
        global_step=np.int64(7),
    )
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.names() == ["global_step", "net/biases", "net/weights"]
        assert checkpoint.shape("net/weights") == (2, 3)
        assert checkpoint.is_floating("net/weights") and not checkpoint.is_floating("global_step")
        np.testing.assert_array_equal(checkpoint.tensor("net/weights"), weights)


def test_names_are_in_natural_order(tmp_path):
    one = np.float32(1)
    prefix = save_tensors(tmp_path / "c", layer_10__w=one, layer_2__w=one, layer_1__w=one)
    assert names_of(prefix) == ["layer_1/w", "layer_2/w", "layer_10/w"]


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
def test_prefix_and_each_file_of_a_checkpoint_mean_the_checkpoint(tmp_path, ending):
    prefix = save_tensors(tmp_path / "model.ckpt-1", a=np.ones(2, "float32"))
    assert names_of(prefix + ending) == ["a"]


def test_v1_format_is_read(tmp_path):
    path = str(tmp_path / "old.ckpt")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("net/mask", initializer=np.eye(3, dtype="float32"))
        session.run(variable.initializer)
        tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1).save(session, path)
    assert not os.path.exists(path + ".index")
    for given in (path, tmp_path):
        with open_checkpoint(given) as checkpoint:
            np.testing.assert_array_equal(checkpoint.tensor("net/mask"), np.eye(3))


def test_directory_means_the_checkpoint_that_its_state_file_names(tmp_path):
    for step in (1, 2, 3):
        save_tensors(tmp_path / f"c-{step}", **{f"step{step}": np.float32(step)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "c-2"\n')
    assert names_of(tmp_path) == ["step2"]
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/moved/away/from/c-1"\n')
    assert names_of(tmp_path) == ["step1"]


def test_directory_without_state_file_means_the_newest_index(tmp_path):
    for step, time in ((9, 1000), (10, 1000), (11, 500)):
        prefix = save_tensors(tmp_path / f"c-{step}", **{f"step{step}": np.float32(step)})
        os.utime(prefix + ".index", (time, time))
    assert names_of(tmp_path) == ["step10"]
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "c-999"\n')
    assert names_of(tmp_path) == ["step10"]


def test_object_based_checkpoint_offers_attribute_paths_and_own_names(tmp_path):
    root = tf.train.Checkpoint(
        layer=tf.train.Checkpoint(mask=tf.Variable([True, False]), weight=tf.Variable([1.0], name="theta"))
    )
    with open_checkpoint(root.save(tmp_path / "c")) as checkpoint:
        assert "layer/mask" in checkpoint.names()
        assert checkpoint.find("layer/weight") == checkpoint.find("theta") == ["theta"]
        assert checkpoint.tensor("layer/mask").dtype == bool


def test_slot_variables_of_an_object_based_checkpoint_are_left_out(tmp_path):
    weight = tf.Variable([[1.0, 2.0]])
    optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
    optimizer.apply_gradients([(tf.ones([1, 2]), weight)])
    path = tf.train.Checkpoint(w=weight, optimizer=optimizer).write(str(tmp_path / "c"))
    stored = [name for name, _ in tf.train.list_variables(path)]
    assert any(".OPTIMIZER_SLOT" in name for name in stored)
    assert names_of(path) == ["w"]


@pytest.mark.tensorflow
def test_keras_model_in_a_tensorflow_checkpoint_keeps_its_variable_names(tmp_path):
    model = stock_model()
    # The optimizer comes first, so that its references to the weights are the shortest paths.
    path = tf.train.Checkpoint(a=model.optimizer, model=model).save(tmp_path / "c")
    expected = sorted(variable.path for variable in model.weights)
    assert [name for name in names_of(path) if "save_counter" not in name] == expected


@pytest.mark.tensorflow
def test_exported_saved_model_lists_every_variable_once(tmp_path):
    model = stock_model()
    model.export(tmp_path / "exported", verbose=False)
    expected = sorted(variable.path for variable in model.weights)
    for given in (tmp_path / "exported", tmp_path / "exported" / "saved_model.pb"):
        assert names_of(given) == expected


def test_keras_files_list_layer_names_without_optimizer_variables(tmp_path):
    model = stock_model()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    expected = ["inner/same/0", "inner/same/1", "same/0", "same/1"]
    for file in ("model.keras", "model.weights.h5"):
        with open_checkpoint(tmp_path / file) as checkpoint:
            assert checkpoint.names() == expected
            np.testing.assert_array_equal(checkpoint.tensor("inner/same/0"), model.layers[0].layers[0].get_weights()[0])


def test_whole_model_hdf5_file_is_read(tmp_path):
    model = stock_model()
    model.save(tmp_path / "model.h5")
    kernels = [name for name in names_of(tmp_path / "model.h5") if name.endswith("kernel")]
    assert len(kernels) == 2
    assert not [name for name in names_of(tmp_path / "model.h5") if "adam" in name]


def test_optimizer_under_another_name_is_recognised_by_its_first_variables(tmp_path):
    with h5py.File(tmp_path / "gan.weights.h5", "w") as file:
        file["generator/vars/0"] = np.ones((2, 2), "float32")
        file["generator_optimizer/vars/0"] = np.int64(3)
        file["generator_optimizer/vars/1"] = np.float32(0.1)
        file["generator_optimizer/vars/2"] = np.ones((2, 2), "float32")
    assert names_of(tmp_path / "gan.weights.h5") == ["generator/vars/0"]


def test_layers_of_equal_name_keep_their_place_in_the_file_as_name(tmp_path):
    with h5py.File(tmp_path / "twins.weights.h5", "w") as file:
        file.create_group("vars").attrs["name"] = "model"
        for key in ("layers/dense", "layers/dense_1"):
            file[f"{key}/vars/0"] = np.ones((2, 2), "float32")
            file[f"{key}/vars"].attrs["name"] = "twin"
    assert names_of(tmp_path / "twins.weights.h5") == [
        "layers/dense/vars/0",
        "layers/dense_1/vars/0",
    ]


def test_bfloat16_comes_as_float32(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16", name="d")])
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0].kernel, "float32"))
    model.save(tmp_path / "m.keras")
    save_tensors(tmp_path / "c", d=tf.cast(kernel, "bfloat16"))
    for path, name in ((tmp_path / "m.keras", "d/0"), (tmp_path / "c", "d")):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.is_floating(name)
            assert checkpoint.tensor(name).dtype == "float32"
            np.testing.assert_array_equal(checkpoint.tensor(name), kernel)


def test_no_code_of_a_keras_file_is_needed(tmp_path):
    config = {
        "module": "nowhere",
        "class_name": "Unknown",
        "config": {"name": "odd", "gamma": -0.3},
    }
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["vars/log_alpha"] = np.zeros((2, 2), "float32")
        file["vars"].attrs["name"] = "odd"
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with open_checkpoint(tmp_path / "m.keras") as checkpoint:
        assert checkpoint.names() == ["odd/log_alpha"]
        assert checkpoint.layer_option("odd/log_alpha", "gamma") == -0.3
        assert checkpoint.layer_option("odd/log_alpha", "zeta") is None


def test_unpacked_weights_are_removed_on_close(tmp_path, monkeypatch):
    stock_model().save(tmp_path / "m.keras")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with open_checkpoint(tmp_path / "m.keras"):
        assert os.listdir(tmp_path / "scratch")
    assert not os.listdir(tmp_path / "scratch")


def cut_shard_inside_a_slot(folder):
    prefix = save_tensors(
        folder / "c",
        w=np.ones((9, 9), "float32"),
        w__Momentum=np.ones((9, 9), "float32"),
    )
    _cut(prefix + ".data-00000-of-00001", 4)
    return prefix


def flipped_bit_in_shard(folder):
    prefix = save_tensors(folder / "c", w=np.ones((9, 9), "float32"))
    file = prefix + ".data-00000-of-00001"
    data = bytearray(open(file, "rb").read())
    data[40] ^= 1
    open(file, "wb").write(data)
    return prefix


def missing_shard(folder):
    prefix = save_tensors(folder / "c", w=np.ones((9, 9), "float32"))
    os.remove(prefix + ".data-00000-of-00001")
    return prefix


def cut_index(folder):
    prefix = save_tensors(folder / "c", w=np.ones((9, 9), "float32"))
    _cut(prefix + ".index", 20)
    return prefix + ".index"


def text_file(folder):
    (folder / "notes.txt").write_text("not a checkpoint")
    return folder / "notes.txt"


def cut_zip(folder):
    stock_model().save(folder / "m.keras")
    _cut(folder / "m.keras", 100)
    return folder / "m.keras"


def changed_zip(folder):
    stock_model().save(folder / "m.keras")
    data = bytearray((folder / "m.keras").read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "m.keras").write_bytes(data)
    return folder / "m.keras"


def zip_of_something_else(folder):
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("hello.txt", "hello")
    return folder / "m.keras"


def cut_hdf5(folder):
    stock_model().save_weights(folder / "m.weights.h5")
    _cut(folder / "m.weights.h5", 500)
    return folder / "m.weights.h5"


def empty_hdf5(folder):
    (folder / "m.weights.h5").write_bytes(b"")
    return folder / "m.weights.h5"


def keras_bomb(folder):
    with zipfile.ZipFile(folder / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(80 << 20))
    return folder / "m.keras"


def hdf5_of_promises(folder):
    with h5py.File(folder / "m.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "float32", chunks=(1 << 10, 1 << 10))
    return folder / "m.weights.h5"


def hdf5_of_another_file(folder):
    (folder / "secret").write_bytes(bytes(64))
    with h5py.File(folder / "m.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", (4, 4), "float32", external=[(str(folder / "secret"), 0, 64)])
    return folder / "m.weights.h5"


def empty_directory(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def wrong_path(folder):
    return folder / "model.ckpt-1"


def _cut(file, count):
    os.truncate(file, os.path.getsize(file) - count)


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_shard_inside_a_slot, "is cut off"),
        (flipped_bit_in_shard, "Cannot read tensor 'w'"),
        (missing_shard, "lacks data files"),
        (cut_index, "not a readable TensorFlow checkpoint"),
        (text_file, "not a readable TensorFlow checkpoint"),
        (cut_zip, "not a readable .keras file"),
        (changed_zip, "not a readable .keras file"),
        (zip_of_something_else, "must hold config.json and model.weights.h5"),
        (cut_hdf5, "not a readable HDF5 file"),
        (empty_hdf5, "not a readable HDF5 file"),
        (keras_bomb, "would unpack to"),
        (hdf5_of_promises, "would unpack to"),
        (hdf5_of_another_file, "its tensor 'layers/dense/vars/0', but refers to another file"),
        (empty_directory, "holds no checkpoint"),
        (wrong_path, "no such file, directory or prefix"),
    ],
)
def test_damage_is_one_clear_line(tmp_path, damage, message):
    path = damage(tmp_path)
    with pytest.raises(CheckpointError) as error:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                checkpoint.tensor(name)
    assert message in str(error.value)
    assert str(path).removesuffix(".index") in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_are_read_one_by_one(tmp_path):
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30), keras.layers.Dense(20)])
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=5e-6)
    with pytest.raises(
        CheckpointError, match="only the list of the files that hold the weights. Give one of its .weights.h5 files"
    ):
        open_checkpoint(tmp_path / "model.weights.json")
    sizes = 0
    for shard in tmp_path.glob("*.weights.h5"):
        with open_checkpoint(shard) as checkpoint:
            sizes += sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names())
    assert sizes == model.count_params()


def test_unknown_tensor_is_an_error(tmp_path):
    prefix = save_tensors(tmp_path / "c", a=np.float32(1))
    with open_checkpoint(prefix) as checkpoint:
        with pytest.raises(CheckpointError, match="has no tensor named 'b'"):
            checkpoint.tensor("b")
