"""One-shot pruning of a trained CIFAR-10 network: accuracy at each sparsity, with and without `refresh_statistics`.

The benchmark trains a narrow VGG-like network with batch normalisation for a few epochs and writes it to `--file`, or
reads it from there. Each line of the table is one way to prune the network, from the same trained weights, without
training afterwards. Accuracy is on the test images, in percent. Then `inspection.sensitivity` draws which layers can be
pruned.

    bash get_cifar10.sh cifar10.npz    # or any .npz with x_train, y_train, x_test, y_test
    python benchmarks/one_shot.py --data=cifar10.npz [--epochs=5] [--file=trained.keras]
        [--picture=sensitivity.png] [--plot=accuracy.png]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags
from keras import layers
from matplotlib.figure import Figure
from tabulate import tabulate

import sparsity_tf
from sparsity_tf.inspection import sensitivity

# Name -> arguments of `prune`. `data` is added if the scores need it.
ARMS = {
    "magnitude": {},
    "magnitude ERK": {"distribution": "erk"},
    "magnitude global": {"scope": "global"},
    "random": {"by": "random"},
    "wanda": {"by": "wanda"},
    "taylor global": {"by": "taylor", "scope": "global"},
    "sparsegpt": {"by": "sparsegpt"},
    "obs": {"by": "obs"},
    "2:4 magnitude": {"structure": "2:4"},
    "filter magnitude": {"structure": "filter"},
    "filter taylor": {"structure": "filter", "by": "taylor"},
    "filter random": {"structure": "filter", "by": "random"},
}

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Path of a .npz with CIFAR-10.", required=True)
flags.DEFINE_string("file", None, "Trained model: read if it is there, else written.")
flags.DEFINE_integer("epochs", 5, "Epochs of training.", lower_bound=1)
flags.DEFINE_integer("train", 50000, "Training images.", lower_bound=1)
flags.DEFINE_integer("width", 16, "Filters of the first layer.", lower_bound=1)
flags.DEFINE_list("sparsity", ["0.3", "0.5", "0.7", "0.8", "0.9"], "Fractions of zeros.")
flags.DEFINE_list("arms", list(ARMS), f"Some of {list(ARMS)}.")
flags.DEFINE_integer("calibration", 2048, "Training images for scores and statistics.", lower_bound=1)
flags.DEFINE_integer("test", 10000, "Test images.", lower_bound=1)
flags.DEFINE_string("picture", None, "Where to write the picture of the sensitivity.")
flags.DEFINE_string("plot", None, "Where to write the picture of accuracy over sparsity.")
flags.DEFINE_string("csv", None, "Where to write the table of the sensitivity.")


def vgg(width):
    keras.utils.set_random_seed(0)
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


def compile_model(model, steps):
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])


def trained(x, y):
    """The trained network: read from the file if it exists, otherwise trained."""
    if FLAGS.file and os.path.exists(FLAGS.file):
        return keras.saving.load_model(FLAGS.file)
    model = vgg(FLAGS.width)
    rng = np.random.default_rng(0)
    compile_model(model, FLAGS.epochs * (len(x) // 128))
    for epoch in range(FLAGS.epochs):
        order, flip = rng.permutation(len(x)), rng.random(len(x)) < 0.5
        images = np.where(flip[:, None, None, None], x[:, :, ::-1], x)[order]
        history = model.fit(images, y[order], batch_size=128, verbose=0).history
        print(f"epoch {epoch + 1}: training accuracy {100 * history['accuracy'][0]:.2f} %", flush=True)
    if FLAGS.file:
        model.save(FLAGS.file)
    return model


def accuracy(model, x, y):
    return 100 * model.evaluate(x, y, batch_size=500, verbose=0, return_dict=True)["accuracy"]


def measure(name, model, sparsities, data, test):
    """The rows of the table for one way to prune. Each sparsity begins with the trained weights."""
    arguments = dict(ARMS[name])
    if arguments.get("by") in ("wanda", "taylor"):
        arguments["data"] = data[1]
    elif arguments.get("by") in ("sparsegpt", "obs"):
        # They read the data once for each layer. 256 images are 250,000 patches of the first layer.
        arguments["data"] = data[1][:2]
    pruned = keras.models.clone_model(model)
    pruned.set_weights(model.get_weights())
    sparsity_tf.sparsify(pruned, "masked", structure=arguments.get("structure"))
    compile_model(pruned, 1)
    trained_values = [(variable, keras.ops.convert_to_numpy(variable).copy()) for variable in pruned.variables]
    rows = []
    for sparsity in [0.5] if arguments.get("structure") == "2:4" else sparsities:
        for variable, value in trained_values:
            variable.assign(value)
        sparsity_tf.prune(pruned, sparsity, **arguments)
        before = accuracy(pruned, *test)
        sparsity_tf.refresh_statistics(pruned, data[0], batch_size=512)
        after = accuracy(pruned, *test)
        zeros = pruned.prune_report.sparsity
        rows.append([name, f"{sparsity:g}", f"{zeros:.4f}", f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"])
        print(*rows[-1], sep="  ", flush=True)
    return rows


def plot(rows, unpruned, path):
    """Accuracy over sparsity: of each way to prune one line with refreshed statistics, and a dashed one without."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="zeros, %", ylabel="test accuracy, %")
    axes.axhline(unpruned, color="0.6", linewidth=1)
    for number, name in enumerate(dict.fromkeys(row[0] for row in rows)):
        zeros, before, after = zip(*([float(cell) for cell in row[2:5]] for row in rows if row[0] == name), strict=True)
        zeros = [100 * fraction for fraction in zeros]
        axes.plot(zeros, after, marker="o", markersize=3, color=f"C{number}", label=name)
        axes.plot(zeros, before, linestyle="--", linewidth=1, color=f"C{number}")
    figure.legend(loc="outside right upper", fontsize="small", title="solid: refreshed", title_fontsize="small")
    figure.savefig(path, dpi=110)


def main(_):
    arrays = np.load(FLAGS.data)
    x, y = arrays["x_train"][: FLAGS.train], arrays["y_train"][: FLAGS.train].reshape(-1)
    x_test, y_test = arrays["x_test"][: FLAGS.test], arrays["y_test"][: FLAGS.test].reshape(-1)
    model = trained(x, y)
    compile_model(model, 1)
    chosen = np.random.default_rng(1).permutation(len(x))[: FLAGS.calibration]
    batches = [(x[part], y[part]) for part in np.array_split(chosen, max(len(chosen) // 128, 1))]
    unpruned = accuracy(model, x_test, y_test)
    print(f"{model.count_params():,} parameters, unpruned: {unpruned:.2f} %")
    sparsities = [float(sparsity) for sparsity in FLAGS.sparsity]
    rows = []
    for name in FLAGS.arms:
        rows += measure(name, model, sparsities, (x[chosen], batches), (x_test, y_test))
    headers = ["scores", "sparsity", "zeros", "as pruned, %", "refreshed, %", "gain"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5)), flush=True)
    if FLAGS.plot:
        plot(rows, unpruned, FLAGS.plot)
    table = sensitivity(model, (x_test[:2000], y_test[:2000]), sparsities, batch_size=500)
    print(table)
    if FLAGS.picture:
        table.plot(FLAGS.picture)
    if FLAGS.csv:
        table.to_csv(FLAGS.csv)


if __name__ == "__main__":
    app.run(main)
