"""Follows a network on real data through all stations: dense -> channels pruned -> fine-tuned -> shrunk -> int8.

Each station is measured: accuracy on the test images, parameters, bytes of the `.keras` and LiteRT files, and the
latency of one image in Keras and LiteRT. All stations of a seed are timed in one process, with one thread each, in
turns. A ratio is the median over rounds of dense / station of the same round, in processor time. For the accuracy of
int8, the LiteRT file itself runs on the test images.

    python benchmarks/trained_story.py --data=mnist --folder=MNIST_FOLDER [--seeds=1,2,3]
    python benchmarks/trained_story.py --data=cifar10 --folder=cifar10.npz --network=wrn-16-2 --augment --epochs=8

`--plot=FILE.png` draws the stations: accuracy against the bytes of the LiteRT file, and against its latency.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import tempfile

import keras
import numpy as np
from _inference import Arm, run_in_turns, speed
from absl import app, flags
from keras import layers
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import callbacks, datasets, models
from sparsity_tf.datasets.images.augmentation import crop_and_flip, draw_epoch
from sparsity_tf.deploy.runtimes import open_runtime

FLAGS = flags.FLAGS
flags.DEFINE_enum("data", "mnist", ["mnist", "cifar10"], "Which network and data.")
flags.DEFINE_enum("network", "small", ["small", "vgg_like", "wrn-16-2"], "Five convolutions, or a net of `models`.")
flags.DEFINE_bool("augment", False, "Train on randomly moved and mirrored images (CIFAR's usual crops).")
flags.DEFINE_string("folder", None, "Folder with MNIST, or a .npz with CIFAR-10.", required=True)
flags.DEFINE_list("seeds", ["1"], "Seeds.")
flags.DEFINE_integer("epochs", 4, "Epochs of dense training; as many again for pruning and fine-tuning.", lower_bound=2)
flags.DEFINE_float("target_flops", 0.25, "Share of the dense network's FLOPs that is left.")
flags.DEFINE_integer("width", 32, "Filters of the first layer of the small network.", lower_bound=1)
flags.DEFINE_float("vgg_width", 0.5, "Width of the network vgg_like.", lower_bound=0.01)
flags.DEFINE_integer("rounds", 15, "Rounds of timing; every arm runs once in each.", lower_bound=1)
flags.DEFINE_float("seconds", 0.1, "How long an arm runs in a round, about.", lower_bound=0.001)
flags.DEFINE_string("plot", None, "Picture to draw, a .png.")

BATCH = 128


def load():
    """`(x_train, y_train), (x_test, y_test)`, float32 images."""
    if FLAGS.data == "mnist":
        found = datasets.mnist(FLAGS.folder)
        x, y, x_test, y_test = found.x_train[..., None], found.y_train, found.x_test[..., None], found.y_test
    else:
        with np.load(FLAGS.folder) as file:
            x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    mean, deviation = x.mean(), x.std()
    x, x_test = (((images - mean) / deviation).astype("float32") for images in (x, x_test))
    return (x, y.reshape(-1)), (x_test, y_test.reshape(-1))


def network(shape):
    """The network of the flags. The small one: convolutions with batch normalisation; the width doubles twice."""
    if FLAGS.network == "vgg_like":
        return models.vgg_like(shape, width=FLAGS.vgg_width)
    if FLAGS.network == "wrn-16-2":
        return models.wide_resnet(16, 2, shape, variant="dsr")
    model = keras.Sequential([keras.Input(shape)])
    for number, filters in enumerate([FLAGS.width, FLAGS.width, 2 * FLAGS.width, 2 * FLAGS.width, 4 * FLAGS.width]):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
        if number % 2:
            model.add(layers.MaxPooling2D())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


class Augmented(keras.utils.PyDataset):
    """Mini-batches of images that are moved by up to four pixels and mirrored, anew in every epoch."""

    def __init__(self, data, seed):
        super().__init__()
        self.data, self.seed, self.epoch = data, seed, 0
        self.on_epoch_begin()

    def on_epoch_begin(self):
        self.order, self.offsets, self.flips = draw_epoch(len(self.data[1]), self.seed, self.epoch, "crop_flip", 4)

    def on_epoch_end(self):
        self.epoch += 1

    def __len__(self):
        return -(-len(self.data[1]) // BATCH)

    def __getitem__(self, number):
        here = slice(number * BATCH, (number + 1) * BATCH)
        chosen = self.order[here]
        images = crop_and_flip(self.data[0], self.offsets[here], self.flips[here], chosen=chosen)
        return images, self.data[1][chosen]


def train(model, data, epochs, rate, seed, callback=None):
    """Trains with Adam at a rate that falls to zero along a cosine."""
    steps = -(-len(data[0]) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)
    options = {"epochs": epochs, "callbacks": [callback] if callback else None, "verbose": 0}
    if FLAGS.augment:
        model.fit(Augmented(data, seed), **options)
    else:
        model.fit(*data, batch_size=BATCH, **options)


def accuracy(predict, data):
    """The percentage of images whose largest logit belongs to the label."""
    logits = np.concatenate([predict(data[0][start : start + 500]) for start in range(0, len(data[1]), 500)])
    return 100 * np.mean(np.argmax(logits, axis=-1) == data[1])


def run(seed, data, test, folder):
    """Runs all stations of one seed: a list of dicts."""
    keras.utils.set_random_seed(seed)
    model = network(data[0].shape[1:])
    train(model, data, FLAGS.epochs, 1e-3, seed)
    dense = sparsity_tf.to_dense(model)
    stations = [("dense", dense, None)]

    steps = -(-len(data[0]) // BATCH)
    half = FLAGS.epochs // 2
    pruning = callbacks.MagnitudePruning(
        structure="channel", target_flops=FLAGS.target_flops, end_step=half * steps, frequency=max(1, steps // 8)
    )
    sparsity_tf.sparsify(model, "masked", structure="channel")
    train(model, data, half, 1e-3, seed, pruning)
    stations.append(("channels pruned in training", sparsity_tf.to_dense(model), None))
    train(model, data, FLAGS.epochs - half, 5e-4, seed)
    tuned = sparsity_tf.to_dense(model)
    small = sparsity_tf.shrink(model)
    stations += [("fine-tuned, masks held", tuned, None), ("shrunk", small, None), ("shrunk, int8", small, "int8")]
    return [measured(*station, data, test, folder) for station in stations]


def measured(name, model, quantize, data, test, folder):
    """The accuracy and the bytes of a station, and its arms for timing."""
    path = os.path.join(folder, name.replace(" ", "_"))
    examples = data[0][:200] if quantize else None
    report = sparsity_tf.export(model, f"{path}.tflite", quantize=quantize, data=examples, sparse=False)
    if quantize is None:
        (model.save if name == "dense" else lambda to: sparsity_tf.save_compact(model, to))(f"{path}.keras")
    one = test[0][:1]
    runtime = open_runtime("litert", f"{path}.tflite", threads=1)
    found = {
        "station": name,
        "accuracy": accuracy(lambda x: runtime([x])[0], test) if quantize else accuracy(model.predict_on_batch, test),
        "parameters": model.count_params(),
        "keras_bytes": None if quantize else os.path.getsize(f"{path}.keras"),
        "litert_bytes": report.bytes,
        "keras": None if quantize else Arm(lambda: model.predict_on_batch(one), FLAGS.seconds),
    }
    found["litert"] = Arm(open_runtime("litert", f"{path}.tflite", threads=1).prepared([one]), FLAGS.seconds)
    return found


def main(argv):
    del argv
    data, test = load()
    runs = []
    for seed in map(int, FLAGS.seeds):
        with tempfile.TemporaryDirectory() as folder:
            stations = run(seed, data, test, folder)
            run_in_turns([one[key] for one in stations for key in ("keras", "litert") if one[key]], FLAGS.rounds)
        runs.append(stations)
        print(f"\nseed {seed}\n{table(stations)}", flush=True)
    if len(runs) > 1:
        print("\naccuracy, mean and standard error over seeds")
        for stations in zip(*runs, strict=True):
            values = [one["accuracy"] for one in stations]
            error = statistics.stdev(values) / len(values) ** 0.5
            print(f"  {stations[0]['station']}: {statistics.mean(values):.2f} +- {error:.2f}")
    if FLAGS.plot:
        plot(runs)


def plot(runs):
    """Draws the stations: a line from dense to int8 for each seed, with the names beside the stations of the first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = (
        (left, "LiteRT file, kilobytes", lambda one: one["litert_bytes"] / 1000),
        (right, "one image in LiteRT, microseconds", lambda one: 1e6 * statistics.median(one["litert"].times)),
    )
    for axes, label, cost in sizes:
        for number, stations in enumerate(runs):
            line = ([cost(one) for one in stations], [one["accuracy"] for one in stations])
            axes.plot(*line, "o-", alpha=1 if number == 0 else 0.35, color="tab:blue")
        for one in runs[0]:
            far = cost(one) > 0.5 * cost(runs[0][0])
            axes.annotate(
                one["station"], (cost(one), one["accuracy"]), xytext=(-6 if far else 0, 6), textcoords="offset points",
                ha="right" if far else "left", fontsize=8,
            )  # fmt: skip
        axes.set(xlabel=label, xlim=(0, 1.1 * cost(runs[0][0])))
        axes.margins(y=0.15)
        axes.grid(alpha=0.3)
    left.set_ylabel("test accuracy, %")
    figure.savefig(FLAGS.plot, dpi=110)


def table(stations):
    dense = stations[0]

    def size(one, key):
        return "" if one[key] is None else f"{one[key]:,} = {dense[key] / one[key]:.2f}x"

    rows = [
        [
            one["station"],
            f"{one['accuracy']:.2f}",
            size(one, "parameters"),
            size(one, "keras_bytes"),
            size(one, "litert_bytes"),
            *(speed(dense[key], one[key]) if one[key] else "" for key in ("keras", "litert")),
        ]
        for one in stations
    ]
    headers = [
        "station",
        "accuracy %",
        "parameters",
        ".keras bytes",
        "LiteRT bytes",
        "Keras, 1 image",
        "LiteRT, 1 image",
    ]
    return tabulate(rows, headers=headers, disable_numparse=True)


if __name__ == "__main__":
    app.run(main)
