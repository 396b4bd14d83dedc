"""Every format that is read: a sound specimen of it, and the reader or the command that reads it.

`FORMATS` maps names to `Format`s. What a specimen is read with gets the folder of the files and an empty folder for
output; a command gives its exit status.
"""

import dataclasses
import importlib.util
import os
import pickle

import numpy as np

from tests.campaigns import file_damage


@dataclasses.dataclass(frozen=True)
class Format:
    """How a specimen is made, damaged and read.

    Attributes:
        make: Function of a folder, in which it writes sound files.
        read: Function of the folder and of a folder for output.
        lies: Function of the path of the canary to lies, functions of a path.
        damaged: Function of a file's name: whether it may be damaged.
        lied_about: As `damaged`, for lies.
        tensorflow: Whether reading it needs the TensorFlow backend.
    """

    make: object
    read: object
    lies: object = lambda canary: []
    damaged: object = lambda name: True
    lied_about: object = lambda name: True
    tensorflow: bool = False


def _digits(folder):
    from pathlib import Path

    from tests.train.runs import write_digits

    write_digits(Path(folder))


def _digits_gz(folder):
    _digits(folder)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            content = file.read()
        os.remove(path)
        file_damage.written(file_damage.PACK[".gz"](content))(path + ".gz")


def _mnist(folder, output):
    from sparsity_tf import datasets

    datasets.mnist(folder)


def _cifar(folder, output):
    from sparsity_tf import datasets

    datasets.cifar10(folder)


_CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def _cifar_binary(folder):
    random = np.random.default_rng(0)
    for name in _CIFAR_FILES:
        records = random.integers(0, 256, (4, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(os.path.join(folder, f"{name}.bin"))


def _cifar_pickles(folder):
    random = np.random.default_rng(0)
    for name in _CIFAR_FILES:
        batch = {b"data": random.integers(0, 256, (4, 3072), np.uint8), b"labels": [1, 2, 3, 4]}
        file_damage.written(pickle.dumps(batch, 2))(os.path.join(folder, name))


def _npz(folder):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (8, 28, 28), np.uint8), np.arange(8, dtype=np.uint8)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez_compressed(os.path.join(folder, "mnist.npz"), **arrays)


def _tiny_imagenet(folder):
    import h5py

    random = np.random.default_rng(0)
    for name in ("train", "val"):
        with h5py.File(os.path.join(folder, f"{name}.h5"), "w") as file:
            file["images"] = random.integers(0, 256, (3, 64, 64, 3), np.uint8)
            file["labels"] = np.arange(3)


def _read_tiny_imagenet(folder, output):
    from sparsity_tf import datasets

    datasets.tiny_imagenet(folder)


def _edgeml(folder):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        table = random.normal(size=(3, 1 + 128 * 9)).astype("float32")
        table[:, 0] = [0, 1, 0]
        np.save(os.path.join(folder, f"{part}.npy"), table)


def _uci(folder):
    from pathlib import Path

    from tests.datasets.sequences.test_sequences import write_uci

    write_uci(Path(folder))


def _har2(folder, output):
    from sparsity_tf import datasets

    datasets.har2(folder)


def _network():
    import keras

    from sparsity_tf import sparsify
    from sparsity_tf.layers import get_sparse_weights

    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(12, activation="relu", name="dense_1")(x)
    model = sparsify(keras.Model(inputs, keras.layers.Dense(10, name="dense_2")(x)), "masked")
    for weight in get_sparse_weights(model):
        weight.assign_mask(np.random.default_rng(0).random(weight.shape) < 0.3)
    return model


def _keras(folder):
    model = _network()
    model.compile("adam", "mse")
    model.save(os.path.join(folder, "model.keras"))


def _load(folder, output):
    from sparsity_tf.train import run_folder as state

    state.load(os.path.join(folder, "model.keras"))


def _hdf5(folder):
    _network().save_weights(os.path.join(folder, "model.weights.h5"))


def _load_masks(name):
    def read(folder, output):
        from sparsity_tf import load_masks

        load_masks(_network(), os.path.join(folder, name))

    return read


def _sparsity(name):
    def read(folder, output):
        from sparsity_tf.tools import checkpoint_sparsity

        return checkpoint_sparsity.main(["checkpoint_sparsity", f"--checkpoint={os.path.join(folder, name)}"])

    return read


def _saved_model(folder):
    _network().export(os.path.join(folder, "saved"), verbose=False)


def _tensorflow_checkpoint(folder):
    import tensorflow as tf

    random = np.random.default_rng(0)
    tensors = {"names": np.array([b"some", b"text"]), "global_step": np.int64(5)}
    for layer, shape in (("dense_1", (784, 12)), ("dense_2", (12, 10))):
        kernel, mask = random.normal(size=shape), random.random(shape) < 0.5
        tensors |= {f"{layer}/{name}": kernel.astype("float32") for name in ("kernel", "kernel/Adam")}
        tensors[f"{layer}/mask"] = mask.astype("float32")
    tf.raw_ops.SaveV2(
        prefix=os.path.join(folder, "model.ckpt-5"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(tensor) for tensor in tensors.values()],
    )
    file_damage.written(b'model_checkpoint_path: "model.ckpt-5"\n')(os.path.join(folder, "checkpoint"))


def _published_checkpoint(folder):
    from tests.checkpoints import test_state_of_sparsity as published
    from tests.models.transformers import small_transformer

    model = small_transformer(technique="masked")
    published.save(os.path.join(folder, "model.ckpt-5"), published.transformer_tensors(model, "masked"))


def _import_checkpoint(folder, output):
    from sparsity_tf.tools import import_checkpoint

    arguments = [f"--checkpoint={folder}/model.ckpt-5", f"--output={output}/network.keras", "--num_heads=2"]
    return import_checkpoint.main(["import_checkpoint", *arguments])


def _tar(folder):
    import tarfile

    _published_checkpoint(folder)
    names = sorted(os.listdir(folder))
    with tarfile.open(os.path.join(folder, "model.tar"), "w") as archive:
        for name in names:
            archive.add(os.path.join(folder, name), f"model/{name}")
            os.remove(os.path.join(folder, name))


def _import_tar(folder, output):
    from sparsity_tf.tools import import_checkpoint

    arguments = [f"--checkpoint={folder}/model.tar", f"--output={output}/network.keras", "--num_heads=2"]
    return import_checkpoint.main(["import_checkpoint", *arguments])


def _torch_checkpoint(**layout):
    def make(folder):
        import torch

        from tests.checkpoints import str_networks

        network = str_networks.build("mobilenet_v1", width=2)
        torch.save({"state_dict": network.state_dict()}, os.path.join(folder, "model.pth"), **layout)

    return make


def _import_torch(folder, output):
    from sparsity_tf.tools import import_checkpoint

    arguments = [f"--checkpoint={folder}/model.pth", f"--output={output}/network.keras", "--input_shape=32,32,3"]
    return import_checkpoint.main(["import_checkpoint", *arguments])


def _published_tables(folder):
    from pathlib import Path

    from tests.study.clones import write_clone

    write_clone(Path(folder))


def _read_tables(folder, output):
    from sparsity_tf import study

    study.read_state_of_sparsity(folder)


def _finished_run(folder):
    from pathlib import Path

    from tests.study.run_folders import write_run

    write_run(Path(folder) / "run", test_error=0.02, sparsity=0.9)


def _read_run(folder, output):
    from sparsity_tf import study

    study.read_run(os.path.join(folder, "run"))


def _convert(folder, output):
    from sparsity_tf.tools import convert

    return convert.main(["convert", f"--checkpoint={folder}/model.keras", f"--output={output}/dense.keras"])


def _take_budget(folder, output):
    from sparsity_tf.tools import budget

    return budget.main(["budget", f"--checkpoint={folder}/model.keras", f"--output={output}/budget.csv"])


def _budget(folder):
    from sparsity_tf.distributions import budgets

    made = budgets.Budget({"a": 0.5, "b": 0.123, "c": 1.0}, {"a": 100, "b": 1000, "c": 10})
    budgets.write_str_csv(os.path.join(folder, "budget.csv"), made)


def _show_budget(folder, output):
    from sparsity_tf.tools import budget

    return budget.main(["budget", f"--input={folder}/budget.csv"])


def _evaluate_files(folder):
    from sparsity_tf.train import run_folder as state
    from sparsity_tf.train.classifier import presets

    _keras(folder)
    recipe = dataclasses.replace(presets.get_preset("lenet300_magnitude"), train_examples=0)
    state.claim_folder(folder, recipe, resume=True, overwrite=False)
    os.mkdir(os.path.join(folder, "data"))
    _digits(os.path.join(folder, "data"))


def _evaluate(folder, output):
    from sparsity_tf.tools import evaluate

    return evaluate.main(["evaluate", f"--checkpoint={folder}/model.keras", f"--data_dir={folder}/data"])


def _records(folder):
    from pathlib import Path

    from tests.datasets.images.imagenet_writer import write_records

    write_records(Path(folder), train=6, test=3, shards=(2, 1))


def _image_folders(folder):
    from pathlib import Path

    from tests.datasets.images.imagenet_writer import write_folders

    write_folders(Path(folder), train=4, test=4, num_classes=2)


def _imagenet(folder, output):
    from sparsity_tf import datasets

    files = datasets.imagenet(folder)
    batches = datasets.file_batches(files, 2, image_size=32)
    # As the programs read: what is wrong with a file is said when it comes up, or by `verify`.
    with batches.naming_errors():
        for part in (batches.test(), batches.train().take(2)):
            for _ in part:
                pass
    files.verify()


_SENTENCES = [f"the {a} cat sees {b} dogs\tdie {a} Katze sieht {b} Hunde" for a in range(9) for b in range(9)]


def _corpus(packing):
    def make(folder):
        content = "".join(line + "\n" for line in _SENTENCES).encode()
        packed = file_damage.PACK[packing](content) if packing else content
        for split in ("train", "validation", "test"):
            file_damage.written(packed)(os.path.join(folder, f"{split}.tsv{packing}"))

    return make


def _two_texts(folder):
    for side, language in enumerate(("en", "de")):
        content = "".join(line.split("\t")[side] + "\n" for line in _SENTENCES).encode()
        for split in ("train", "validation", "test"):
            file_damage.written(content)(os.path.join(folder, f"{split}.{language}"))


def _pairs(dataset):
    def read(folder, output):
        from sparsity_tf import datasets

        corpus = datasets.parallel_corpus(dataset, folder)
        for split in (corpus.train, corpus.validation, corpus.test):
            for _ in split:
                pass

    return read


def _characters(packing):
    def make(folder):
        content = "".join(line + "\n" for line in _SENTENCES).encode()
        packed = file_damage.PACK[packing](content) if packing else content
        file_damage.written(packed)(os.path.join(folder, f"text.txt{packing}"))

    def read(folder, output):
        from sparsity_tf.datasets.text.characters import character_corpus

        character_corpus(os.path.join(folder, f"text.txt{packing}"))

    return make, read


def _sentencepiece(folder):
    from sparsity_tf.datasets.text import subwords

    texts = [text for line in _SENTENCES for text in line.split("\t")]
    subwords.train(texts, os.path.join(folder, "vocabulary"), 60, byte_fallback=False)


def _subword_text(folder):
    pieces = ["<pad>", "<EOS>", "the_", "cat", "_", *"abcdefghijklmnopqrstuvwxyz0123456789\\;"]
    content = "".join(f"'{piece}'\n" for piece in pieces).encode()
    file_damage.written(content)(os.path.join(folder, "vocabulary"))


def _vocabulary(folder, output):
    from sparsity_tf.datasets.text import subwords

    vocabulary = subwords.load(os.path.join(folder, "vocabulary"))
    ids = vocabulary.encode("the cat")
    vocabulary.decode([*ids, 1])


def _cache(folder):
    _corpus("")(folder)
    _sentencepiece(folder)
    _encode(folder, None)


def _encode(folder, output):
    import warnings

    from sparsity_tf.datasets.text import parallel_corpus as parallel_text
    from sparsity_tf.datasets.text import subwords
    from sparsity_tf.datasets.text.encoded_text import encode_pairs

    pairs = parallel_text.tsv_pairs(os.path.join(folder, "train.tsv"))
    # The time of the copy is not that of the specimen.
    pairs = parallel_text.Pairs(pairs.name, "specimen", pairs._read, pairs.place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = encode_pairs(pairs, subwords.load(os.path.join(folder, "vocabulary")), os.path.join(folder, "cache"))
    assert len(encoded) == len(_SENTENCES)


def _metrics(folder):
    from sparsity_tf.train import log
    from sparsity_tf.train import run_folder as state

    row = {"step": 8, "seconds": 1.5, "learning_rate": 0.1, "loss": 0.25, "test_error": 0.5, "sparsity": 0.9}
    log.write_rows(os.path.join(folder, state.METRICS), [{"epoch": epoch, **row} for epoch in range(1, 8)])
    file_damage.written(b"")(os.path.join(folder, state.BEST))


def _continue_metrics(folder, output):
    from sparsity_tf.train import log

    log.lowest_error(folder, "test_error", 2)
    log.EpochLog(folder, 9, 1, first_epoch=5)


def _continue_monitor(folder, output):
    _monitor(folder)


def _records_of_sparsity(folder):
    monitor = _monitor(folder)
    for epoch in range(4):
        monitor.on_epoch_begin(epoch)
        monitor.record()


def _monitor(folder):
    from sparsity_tf import callbacks

    model, monitor = _network(), callbacks.SparsityMonitor(os.path.join(folder, "sparsity_by_step.csv"))
    model.compile("sgd", "mse")
    monitor.set_model(model)
    monitor.on_train_begin()
    monitor.on_epoch_begin(4)
    monitor.on_train_batch_begin(0)
    return monitor


def _two_lists(folder):
    for name in ("hypotheses", "references"):
        content = "".join(line.split("\t")[1] + "\n" for line in _SENTENCES).encode()
        file_damage.written(content)(os.path.join(folder, name))


def _bleu(folder, output):
    from sparsity_tf.tools import bleu

    return bleu.main(["bleu", f"--hypotheses={folder}/hypotheses", f"--references={folder}/references"])


def _translator(folder):
    from sparsity_tf import models
    from sparsity_tf.datasets.text import subwords

    _sentencepiece(folder)
    size = subwords.load(os.path.join(folder, "vocabulary")).size
    models.Transformer(size, 1, 8, 16, 2, technique="vd").save(os.path.join(folder, "model.keras"))
    file_damage.written(b"the cat\nthe 3 dogs\n")(os.path.join(folder, "input"))


def _translate(folder, output):
    from sparsity_tf.tools import translate

    names = {"checkpoint": "model.keras", "vocabulary": "vocabulary", "input": "input"}
    arguments = [f"--{flag}={folder}/{name}" for flag, name in names.items()]
    return translate.main(["translate", *arguments, f"--output={output}/text", "--greedy", "--extra_length=1"])


_TEXT, _READ_TEXT = _characters("")
_BOMBS = lambda canary: [file_damage.bomb(), file_damage.bomb(b"a\tb\n")]  # noqa: E731
_IDX_LIES = [
    *((0x08, (0xFFFFFFFF,)), (0x0E, (0xFFFFFFFF,) * 3), (0x08, (1,) * 200), (0x08, (0,)), (0x08, (1 << 31, 2))),
    *((0x08, ()), (0x08, (0, 28, 28)), (0x0D, (5, 5)), (0x08, (99,)), (0x08, (100,))),
]


def _idx_lies(pack):
    return lambda canary: [file_damage.idx_lie(*lie, pack=pack) for lie in _IDX_LIES]


FORMATS = {
    "idx": Format(_digits, _mnist, _idx_lies(False)),
    "idx.gz": Format(_digits_gz, _mnist, lambda canary: [*_idx_lies(True)(canary), file_damage.bomb()]),
    "cifar binary": Format(_cifar_binary, _cifar),
    "cifar pickles": Format(_cifar_pickles, _cifar, file_damage.pickle_lies),
    "npz": Format(_npz, _mnist, file_damage.npz_lies),
    "TinyImageNet": Format(_tiny_imagenet, _read_tiny_imagenet, lambda canary: file_damage.hdf5_lies()),
    "EdgeML's npy": Format(_edgeml, _har2),
    "UCI HAR": Format(_uci, _har2),
    ".keras": Format(_keras, _load, file_damage.keras_lies),
    ".keras, masks": Format(_keras, _load_masks("model.keras"), file_damage.keras_lies),
    ".keras, sparsity": Format(_keras, _sparsity("model.keras"), file_damage.keras_lies),
    ".keras, convert": Format(_keras, _convert, file_damage.keras_lies),
    ".keras, budget": Format(_keras, _take_budget, file_damage.keras_lies),
    ".keras, evaluate": Format(
        _evaluate_files,
        _evaluate,
        lambda canary: file_damage.json_lies(),
        lied_about=lambda name: name == "recipe.json",
        tensorflow=True,
    ),
    "hdf5, sparsity": Format(_hdf5, _sparsity("model.weights.h5"), lambda canary: file_damage.hdf5_lies()),
    "hdf5, masks": Format(_hdf5, _load_masks("model.weights.h5"), lambda canary: file_damage.hdf5_lies()),
    "SavedModel": Format(_saved_model, _sparsity("saved"), tensorflow=True),
    "TF checkpoint": Format(
        _tensorflow_checkpoint,
        _sparsity(""),
        lambda canary: file_damage.state_file_lies(),
        lied_about=lambda name: name == "checkpoint",
        tensorflow=True,
    ),
    "TF checkpoint, masks": Format(_tensorflow_checkpoint, _load_masks("model.ckpt-5"), tensorflow=True),
    "TF checkpoint, import": Format(_published_checkpoint, _import_checkpoint, tensorflow=True),
    "TF checkpoint, tar": Format(_tar, _import_tar, lambda canary: file_damage.tar_lies(), tensorflow=True),
    "published tables": Format(_published_tables, _read_tables),
    "results of a run": Format(_finished_run, _read_run, lambda canary: file_damage.json_lies()),
    "budget": Format(_budget, _show_budget, lambda canary: file_damage.budget_lies()),
    "TFRecord": Format(_records, _imagenet, lambda canary: file_damage.record_lies(), tensorflow=True),
    "image folders": Format(_image_folders, _imagenet, lambda canary: file_damage.image_lies(), tensorflow=True),
    "tsv": Format(_corpus(""), _pairs("tsv")),
    "tsv.gz": Format(_corpus(".gz"), _pairs("tsv"), _BOMBS),
    "tsv.bz2": Format(_corpus(".bz2"), _pairs("tsv"), _BOMBS),
    "tsv.xz": Format(_corpus(".xz"), _pairs("tsv"), _BOMBS),
    "two texts": Format(_two_texts, _pairs("text")),
    "characters": Format(_TEXT, _READ_TEXT),
    "characters.gz": Format(*_characters(".gz"), _BOMBS),
    "characters.xz": Format(*_characters(".xz"), _BOMBS),
    "sentencepiece": Format(_sentencepiece, _vocabulary, lambda canary: file_damage.vocabulary_lies()),
    "tensor2tensor vocabulary": Format(_subword_text, _vocabulary, lambda canary: file_damage.vocabulary_lies()),
    "encoded text": Format(_cache, _encode, file_damage.npz_lies, *[lambda name: name.endswith(".npz")] * 2),
    "metrics": Format(
        _metrics,
        _continue_metrics,
        lambda canary: file_damage.metrics_lies(),
        *[lambda name: name == "metrics.csv"] * 2,
    ),
    "sparsity by step": Format(_records_of_sparsity, _continue_monitor, lambda canary: file_damage.metrics_lies()),
    "bleu": Format(_two_lists, _bleu),
    "translate": Format(_translator, _translate, tensorflow=True),
}

if importlib.util.find_spec("torch"):  # PyTorch writes the specimens. Reading them needs none.
    FORMATS |= {
        ".pth": Format(_torch_checkpoint(), _sparsity("model.pth"), file_damage.torch_lies),
        ".pth, old layout": Format(
            _torch_checkpoint(_use_new_zipfile_serialization=False), _sparsity("model.pth"), file_damage.torch_lies
        ),
        ".pth, import": Format(_torch_checkpoint(), _import_torch, file_damage.torch_lies),
    }
