"""One-shot pruning of a trained network: quality at each sparsity, with and without `refresh_statistics`.

`--net` chooses the network:

* mlp: LeNet-300-100 on MNIST; mlpnet: 784-40-20-10 on MNIST, the MLPNet of CHITA's paper (arXiv 2302.14623);
* cnn: a narrow VGG-like network with batch normalisation on CIFAR-10;
* transformer: an encoder-decoder of two layers of 64 units that continues a text, character by character.

The benchmark trains the network and writes it to `--file`, or reads it from there. Each line of the table is one way to
prune the network, from the same trained weights, without training afterwards. Quality is measured on test data:
accuracy in percent, or bits per character. Scores and statistics see training data. With `--picture` or `--csv`,
`inspection.sensitivity` also says which layers can be pruned.

    python benchmarks/one_shot.py --net=mlp --data=FOLDER_OF_MNIST [--plot=accuracy.png]
    python benchmarks/one_shot.py --net=transformer --data=FOLDER_OF_TEXTS    # files for train, valid and test
    bash get_cifar10.sh cifar10.npz    # or any .npz with x_train, y_train, x_test, y_test
    python benchmarks/one_shot.py --net=cnn --data=cifar10.npz [--file=trained.keras] [--picture=sensitivity.png]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import math
import time
import typing
from collections.abc import Callable

import keras
import numpy as np
from absl import app, flags
from keras import layers, tree
from matplotlib.figure import Figure
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import models
from sparsity_tf.datasets.text.characters import character_corpus
from sparsity_tf.inspection import sensitivity
from sparsity_tf.models.transformer import EMBEDDING_DENSE

# Name -> arguments of `prune`. `data` is added if the scores need it.
ARMS = {
    "magnitude": {},
    "magnitude ERK": {"distribution": "erk"},
    "magnitude global": {"scope": "global"},
    "random": {"by": "random"},
    "wanda": {"by": "wanda"},
    "taylor global": {"by": "taylor", "scope": "global"},
    "fisher global": {"by": "fisher", "scope": "global"},
    "sparsegpt": {"by": "sparsegpt"},
    "obs": {"by": "obs"},
    "2:4 magnitude": {"structure": "2:4"},
    "filter magnitude": {"structure": "filter"},
    "filter taylor": {"structure": "filter", "by": "taylor"},
    "filter random": {"structure": "filter", "by": "random"},
}
# For single weights Fisher's scores are Taylor's: the mean over batches of (w dL/dw)^2.
SHOWN = ("magnitude", "magnitude ERK", "magnitude global", "wanda", "taylor global", "sparsegpt", "obs")

FLAGS = flags.FLAGS
flags.DEFINE_enum("net", "cnn", ("mlp", "mlpnet", "cnn", "transformer"), "Network.")
flags.DEFINE_string("data", None, "CIFAR-10 (.npz), the folder of MNIST, or the folder of the texts.", required=True)
flags.DEFINE_string("file", None, "Trained model: read if it is there, else written.")
flags.DEFINE_integer("epochs", None, "Epochs of training. Default: depends on the network.", lower_bound=1)
flags.DEFINE_integer("train", None, "Training examples. Default: depends on the network.", lower_bound=1)
flags.DEFINE_integer("width", 16, "Filters of the first layer (cnn).", lower_bound=1)
flags.DEFINE_list("sparsity", ["0.5", "0.6", "0.7", "0.8", "0.9"], "Fractions of zeros.")
flags.DEFINE_list("arms", list(SHOWN), f"Some of {list(ARMS)}.")
flags.DEFINE_integer("calibration", None, "Training examples for scores. Default: depends on the net.", lower_bound=1)
flags.DEFINE_integer("test", None, "Test examples. Default: depends on the network.", lower_bound=1)
flags.DEFINE_string("picture", None, "Where to write the picture of the sensitivity.")
flags.DEFINE_string("plot", None, "Where to write the picture of quality over sparsity.")
flags.DEFINE_string("csv", None, "Where to write the table of the sensitivity.")

# Characters that the encoder of the transformer sees, and that its decoder continues.
WINDOW = 48


class Net(typing.NamedTuple):
    """One network and its data.

    `load` returns the training and the test data, two tuples (inputs, targets), with as many training examples as it is
    asked for. `accurate` says whether quality is the accuracy in percent; otherwise it is in bits per target.
    """

    build: Callable
    load: Callable
    train: int
    test: int
    epochs: int
    rate: float
    calibration: int = 2048
    accurate: bool = True
    where: str | None = None
    flips: bool = False


def vgg():
    width = FLAGS.width
    model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), layers.Rescaling(1 / 64, -2.0)])
    for number, filters in enumerate((width, 2 * width, 2 * width, 4 * width, 4 * width)):
        name = f"conv_{number + 1}"
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name))
        model.add(layers.BatchNormalization(momentum=0.9, name=f"{name}_norm"))
        model.add(layers.ReLU(name=f"{name}_relu"))
        if number in (0, 2):
            model.add(layers.MaxPooling2D(name=f"{name}_pool"))
    model.add(layers.GlobalAveragePooling2D(name="pool"))
    model.add(layers.Dense(10, name="classifier"))
    return model


def mlpnet():
    return models.mnist_mlp(hidden=(40, 20), batch_norm="none")


def transformer():
    rates = dict.fromkeys(("dropout", "attention_dropout", "relu_dropout"), 0.0)
    return models.Transformer(102, num_layers=2, hidden_size=64, filter_size=256, num_heads=4, **rates)


def cifar(train, test):
    arrays = np.load(FLAGS.data)
    return tuple(
        (arrays[f"x_{split}"][:count], arrays[f"y_{split}"][:count].reshape(-1))
        for split, count in (("train", train), ("test", test))
    )


def mnist(train, test):
    data = sparsity_tf.datasets.mnist(FLAGS.data)
    return tuple(
        (images[:count, ..., None].astype("float32") / 255, labels[:count])
        for images, labels, count in ((data.x_train, data.y_train, train), (data.x_test, data.y_test, test))
    )


def text(train, test):
    """Windows of a text: the encoder's characters, and the decoder's, which come after them in the text."""
    corpus = character_corpus(FLAGS.data, vocabulary_size=100)

    def windows(characters, starts):
        found = np.stack([characters[start : start + 2 * WINDOW] for start in starts]).astype("int32") + 2
        return {"inputs": found[:, :WINDOW], "targets": found[:, WINDOW:]}, found[:, WINDOW:]

    starts = np.random.default_rng(0).integers(len(corpus.train) - 2 * WINDOW, size=train)
    return windows(corpus.train, starts), windows(corpus.test, np.arange(test) * 2 * WINDOW)


NETS = {
    "mlp": Net(models.lenet_300_100, mnist, 60000, 10000, 5, 1e-3),
    "mlpnet": Net(mlpnet, mnist, 60000, 10000, 5, 3e-3),
    "cnn": Net(vgg, cifar, 25000, 2000, 3, 3e-3, flips=True),
    "transformer": Net(transformer, text, 25600, 512, 1, 3e-3, 512, accurate=False, where=EMBEDDING_DENSE),
}


def compile_model(model, net, steps=1):
    rate = keras.optimizers.schedules.CosineDecay(net.rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)


def some(data, chosen):
    """The chosen examples of inputs and targets."""
    return tree.map_structure(lambda array: array[chosen], data)


def trained(net, data, epochs):
    """The trained network: read from the file if it exists, otherwise trained."""
    if FLAGS.file and os.path.exists(FLAGS.file):
        return keras.saving.load_model(FLAGS.file)
    keras.utils.set_random_seed(0)
    model, size = net.build(), len(data[1])
    batch = 32 if net.where else 128
    rng = np.random.default_rng(0)
    compile_model(model, net, epochs * (size // batch))
    for epoch in range(epochs):
        x, y = some(data, rng.permutation(size))
        if net.flips:
            x = np.where((rng.random(size) < 0.5)[:, None, None, None], x[:, :, ::-1], x)
        history = model.fit(x, y, batch_size=batch, verbose=0).history
        print(f"epoch {epoch + 1}: training accuracy {100 * history['accuracy'][0]:.2f} %", flush=True)
    if FLAGS.file:
        model.save(FLAGS.file)
    return model


def quality(model, net, test):
    found = model.evaluate(*test, batch_size=500, verbose=0, return_dict=True)
    return 100 * found["accuracy"] if net.accurate else found["loss"] / math.log(2)


def measure(name, model, net, sparsities, data, test):
    """The rows of the table for one way to prune. Each sparsity begins with the trained weights."""
    arguments = dict(ARMS[name])
    inputs, batches, normalized = data
    if arguments.get("by") in ("wanda", "taylor", "fisher"):
        arguments["data"] = batches
    elif arguments.get("by") in ("sparsegpt", "obs"):
        # They read the data once for each layer. For the cnn, 256 images are 250,000 patches of the first layer.
        arguments["data"] = batches if net.build in (models.lenet_300_100, mlpnet) else batches[:2]
    pruned = keras.models.clone_model(model)
    pruned.set_weights(model.get_weights())
    sparsity_tf.sparsify(pruned, "masked", where=net.where, structure=arguments.get("structure"))
    compile_model(pruned, net)
    trained_values = [(variable, keras.ops.convert_to_numpy(variable).copy()) for variable in pruned.variables]
    rows = []
    for sparsity in [0.5] if arguments.get("structure") == "2:4" else sparsities:
        for variable, value in trained_values:
            variable.assign(value)
        begin = time.process_time()
        sparsity_tf.prune(pruned, sparsity, **arguments)
        seconds = time.process_time() - begin
        figures = [quality(pruned, net, test)]
        if normalized:
            sparsity_tf.refresh_statistics(pruned, inputs, batch_size=512)
            figures.append(quality(pruned, net, test))
        zeros = pruned.prune_report.sparsity
        rows.append([name, f"{sparsity:g}", f"{zeros:.4f}", *(f"{one:.2f}" for one in figures), f"{seconds:.1f}"])
        print(*rows[-1], sep="  ", flush=True)
    return rows


def plot(rows, unpruned, net, path):
    """Quality over sparsity, one line for each way to prune. With batch normalisation the lines are with refreshed
    statistics, and dashed ones are without.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    label = "test accuracy, %" if net.accurate else "bits per character of the test text"
    axes = figure.add_subplot(xlabel="zeros, %", ylabel=label)
    axes.axhline(unpruned, color="0.6", linewidth=1)
    refreshed = len(rows[0]) == 6
    for number, name in enumerate(dict.fromkeys(row[0] for row in rows)):
        columns = list(zip(*([float(cell) for cell in row[2:-1]] for row in rows if row[0] == name), strict=True))
        zeros = [100 * fraction for fraction in columns[0]]
        axes.plot(zeros, columns[-1], marker="o", markersize=3, color=f"C{number}", label=name)
        if refreshed:
            axes.plot(zeros, columns[1], linestyle="--", linewidth=1, color=f"C{number}")
    if not net.accurate:
        axes.set_ylim(0.95 * unpruned, 2 * unpruned)
    title = "solid: refreshed" if refreshed else None
    figure.legend(loc="outside right upper", fontsize="small", title=title, title_fontsize="small")
    figure.savefig(path, dpi=110)


def main(_):
    net, begin = NETS[FLAGS.net], time.process_time()
    train, test = net.load(FLAGS.train or net.train, FLAGS.test or net.test)
    model = trained(net, train, FLAGS.epochs or net.epochs)
    compile_model(model, net)
    chosen = np.random.default_rng(1).permutation(len(train[1]))[: FLAGS.calibration or net.calibration]
    batches = [some(train, part) for part in np.array_split(chosen, max(len(chosen) // 128, 1))]
    unpruned = quality(model, net, test)
    unit = "%" if net.accurate else "bits per character"
    print(f"{model.count_params():,} parameters, unpruned: {unpruned:.2f} {unit}", flush=True)
    normalized = any(isinstance(layer, layers.BatchNormalization) for layer in model.layers)
    if not normalized:
        print("The network has no batch normalisation, so `refresh_statistics` changes nothing in it.", flush=True)
    sparsities = [float(sparsity) for sparsity in FLAGS.sparsity]
    rows = []
    for name in FLAGS.arms:
        rows += measure(name, model, net, sparsities, (some(train, chosen)[0], batches, normalized), test)
    headers = ["scores", "sparsity", "zeros", f"as pruned, {unit}"]
    headers += [f"refreshed, {unit}"] if normalized else []
    headers += ["seconds of CPU"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))))
    print(f"{time.process_time() - begin:.0f} seconds of CPU in all", flush=True)
    if FLAGS.plot:
        plot(rows, unpruned, net, FLAGS.plot)
    if FLAGS.picture or FLAGS.csv:
        table = sensitivity(model, some(test, slice(2000)), sparsities, batch_size=500)
        print(table)
        if FLAGS.picture:
            table.plot(FLAGS.picture)
        if FLAGS.csv:
            table.to_csv(FLAGS.csv)


if __name__ == "__main__":
    app.run(main)
