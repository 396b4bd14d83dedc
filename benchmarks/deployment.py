"""Measures the gain of `shrink` over the dense model of the same run: parameters, and latency in Keras and LiteRT.

The networks have random weights, and batch normalisation with random gamma and beta. The benchmark sets part of the
filters and units to zero, and `shrink` removes them. `--zeros` says how they are chosen. `random` chooses in each layer
separately. `tied` takes whole groups of `deploy.channel_groups` (filters that additions bind) with bias, gamma and
beta. `channel` makes the model masked with `structure="channel"` and prunes the groups with the smallest weights, as
`MagnitudePruning` does at the end of its schedule; with `--target_flops` it prunes until this share of the operations
is left. `--file` gives a trained model instead.

The arms of a comparison run in one process, with one thread each, interleaved round after round. A ratio is the median
over rounds of dense / arm of the same round, in processor time. The arm "dense again" shows the noise. If LiteRT
(`ai-edge-litert`, or TensorFlow's) is missing, its columns stay empty.

    python benchmarks/deployment.py [--models=vgg_like,mobilenet_v1] [--sparsity=0.5,0.7] [--zeros=random,tied]
        [--target_flops=0.5] [--batch=1,8] [--rounds=15] [--file=model.keras]
    python benchmarks/deployment.py --part=files     # sizes of .keras files of a net 1024-1024-1024-10, 90 % zeros
    python benchmarks/deployment.py --part=blocks    # LiteRT: an MLP with structure="4x1" and with scattered zeros
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import collections
import operator
import resource
import tempfile
import time

import keras
import numpy as np
from _inference import Arm, run_in_turns, speed
from absl import app, flags
from keras import layers, ops
from tabulate import tabulate

import sparsity_tf
from sparsity_tf import models
from sparsity_tf.deploy import channel_groups
from sparsity_tf.deploy.runtimes import open_runtime
from sparsity_tf.masks import structures

FLAGS = flags.FLAGS
_NETWORKS = {
    "lenet_300_100": lambda: models.lenet_300_100(),
    "vgg_like": lambda: models.vgg_like(),
    "wide_resnet": lambda: models.wide_resnet(16, 4),
    "resnet_50": lambda: models.resnet_50(input_shape=(96, 96, 3)),
    "mobilenet_v1": lambda: models.mobilenet_v1(input_shape=(96, 96, 3)),
}
flags.DEFINE_list("models", ["vgg_like", "wide_resnet", "mobilenet_v1", "resnet_50"], f"Some of {list(_NETWORKS)}.")
flags.DEFINE_list("sparsity", ["0.5"], "Fractions of the filters that are zero.")
flags.DEFINE_list("zeros", ["random", "tied", "channel"], "Where the zeros are: random, tied, channel.")
flags.DEFINE_list("target_flops", [], "Further arms: what share of the operations `channel` leaves.")
flags.DEFINE_list("batch", ["1", "8"], "Batch sizes.")
flags.DEFINE_integer("rounds", 15, "Rounds; every arm runs once in each.", lower_bound=1)
flags.DEFINE_float("seconds", 0.1, "How long an arm runs in a round, about.", lower_bound=0.001)
flags.DEFINE_enum("part", "shrink", ["shrink", "files", "blocks"], "What to measure.")
flags.DEFINE_string("file", None, "A trained `.keras` file, measured in the place of `--models`.")


def build(name):
    """A network with random weights. Batch normalisation is random, too: a fresh beta of 0 would hide its cost."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = _NETWORKS[name]()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                low, high = (-0.3, 0.3) if variable.name in ("beta", "moving_mean") else (0.5, 1.5)
                variable.assign(rng.uniform(low, high, variable.shape))
        elif isinstance(layer, layers.Conv2D | layers.Dense | layers.DepthwiseConv2D):
            # The scale of He et al., with which the signal reaches the output of every network.
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            fan_in = np.prod(layer.kernel.shape[:-2] if depthwise else layer.kernel.shape[:-1])
            layer.kernel.assign(rng.normal(size=layer.kernel.shape) * np.sqrt(2 / fan_in))
    return model


def zero_filters(model, sparsity):
    """Sets random filters and units to zero, with their biases, in every layer but the last."""
    rng = np.random.default_rng(1)
    kernels = [x for x in model._flatten_layers() if type(x) in (layers.Conv2D, layers.Dense)]
    for layer in kernels[:-1]:
        dead = rng.permutation(layer.kernel.shape[-1])[: round(sparsity * layer.kernel.shape[-1])]
        for variable in layer.weights:
            _zero(variable, -1, dead)


def zero_groups(model, sparsity):
    """Sets random groups of tied channels to zero: the same fraction of the groups in every set of layers."""
    rng = np.random.default_rng(1)
    families = collections.defaultdict(list)
    for group in channel_groups(model):
        if not group.fixed:
            families[tuple((member.layer.name, member.weight) for member in group.members)].append(group)
    dead = collections.defaultdict(list)
    for family in families.values():
        for index in rng.permutation(len(family))[: round(sparsity * len(family))]:
            for member in family[index].members:
                variable = operator.attrgetter(member.weight)(member.layer)
                dead[id(variable), member.axis].append((variable, member.indices))
    for (_, axis), found in dead.items():
        _zero(found[0][0], axis, [index for _, indices in found for index in indices])


def prune_channels(model, sparsity):
    """Prunes the channels with the smallest weights."""
    sparsity_tf.prune(model, sparsity, structure="channel")


def _zero(variable, axis, indices):
    value = np.array(ops.convert_to_numpy(variable))
    np.moveaxis(value, axis, 0)[indices] = 0
    variable.assign(value)


def keras_call(model, batch):
    """A function that calls `predict_on_batch` on random inputs."""
    x = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])).astype("float32")
    return lambda: model.predict_on_batch(x)


def litert_file(model):
    """The content of a LiteRT file, or `None` if there is no TensorFlow to make it."""
    try:
        import tensorflow as tf
    except ImportError:
        return None
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def litert_call(content, model, batch):
    """A function that predicts random inputs in LiteRT, on one thread."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    interpreter = Interpreter(model_content=content, num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    shape = (batch, *model.input_shape[1:])
    interpreter.resize_tensor_input(index, shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, np.random.default_rng(0).normal(size=shape).astype("float32"))
    return interpreter.invoke


def compare(title, dense, arms):
    """Prints one line for each arm: its sizes, and its speed relative to the dense model of the same run."""
    arms = {"dense": dense, "dense again": dense, **arms}
    files = {id(model): litert_file(model) for model in arms.values()}
    measured = {}
    for batch in map(int, FLAGS.batch):
        for name, model in arms.items():
            content = files[id(model)]
            calls = {
                "LiteRT": litert_call(content, model, batch) if content else None,
                "Keras": keras_call(model, batch),
            }
            for runtime, call in calls.items():
                measured[name, batch, runtime] = Arm(call, FLAGS.seconds) if call else None
    run_in_turns([arm for arm in measured.values() if arm], FLAGS.rounds)
    columns = [(batch, runtime) for batch in map(int, FLAGS.batch) for runtime in ("LiteRT", "Keras")]
    rows = []
    for name, model in arms.items():
        report = getattr(model, "shrink_report", None)
        row = [name, f"{model.count_params():,}", f"{dense.count_params() / model.count_params():.2f}"]
        row.append(f"{len(files[id(model)]):,}" if files[id(model)] else "")
        row.append("" if report is None or not report.flops else f"{report.flops[0] / report.flops[1]:.2f}")
        pairs = [(measured[("dense", *column)], measured[(name, *column)]) for column in columns]
        row += [speed(dense_arm, arm) if arm else "" for dense_arm, arm in pairs]
        row.append("" if report is None else f"{report.difference:.1e}")
        rows.append(row)
    headers = ["arm", "parameters", "fewer", "LiteRT bytes", "fewer MACs"]
    headers += [f"{runtime} b{batch}" for batch, runtime in columns] + ["difference"]
    print(f"\n{title}")
    print(tabulate(rows, headers=headers, disable_numparse=True), flush=True)


def shrunk(model, **arguments):
    """Calls `shrink`, and says how long it took and the peak memory of the process until then."""
    start = time.perf_counter()
    small = sparsity_tf.shrink(model, **arguments)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{model.name}: shrunk in {seconds:.1f} s; peak memory {peak:.2f} GiB", flush=True)
    return small


def pruned_mlp(units, depth, structure, sparsity=0.9):
    """A masked MLP with Keras's initial weights, pruned by magnitude in one shot."""
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(units, "relu") for _ in range(depth)]
    model = keras.Sequential([keras.Input((units,)), *hidden, layers.Dense(10)])
    sparsity_tf.sparsify(model, "masked", structure=structure)
    for weight in sparsity_tf.get_sparse_weights(model):
        scores = np.abs(ops.convert_to_numpy(weight.variable))
        weight.assign_mask(structures.get(structure).keep_highest(scores, sparsity))
    return model


def measure_files():
    """Measures the files of one pruned network: their sizes, and how long stock Keras takes to load them."""
    model = pruned_mlp(1024, 2, None)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 1024)).astype("float32")
    model.fit(x, x[:, :10], epochs=3, batch_size=32, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        rows = []

        def measure(name, write, stock):
            write(path)
            size = os.path.getsize(path)
            start = time.process_time()
            keras.saving.load_model(path)
            seconds = time.process_time() - start
            rows.append([name, f"{size:,}", f"{(stock or size) / size:.1f}x", f"{seconds:.2f}"])
            return size

        def compact(one, **arguments):
            return lambda to: sparsity_tf.save_compact(one, to, **arguments)

        dense = sparsity_tf.to_dense(model)
        stock = measure("stock, dense copy", dense.save, None)
        measure("deflate", compact(dense, compression="deflate"), stock)
        measure("bzip2", compact(dense), stock)
        for bits in (5, 4):
            measure(f"bzip2, codebook of {bits} bits", compact(dense, codebook_bits=bits), stock)
        integers = sparsity_tf.to_dense(dense)
        integers.quantize("int8")
        measure('quantize("int8"), bzip2', compact(integers), stock)
        training = measure("stock, masks and Adam", model.save, None)
        measure("bzip2, masks and Adam", compact(model, masks=True, optimizer=True), training)
        measure("bzip2, dense copy, against stock with masks and Adam", compact(model), training)
    print("\nFiles of a net 1024-1024-1024-10, 90 % zeros by magnitude, trained six steps")
    print(tabulate(rows, headers=["file", "bytes", "smaller", "load, CPU s"], disable_numparse=True), flush=True)


def measure_blocks():
    """Measures LiteRT at 90 % zeros: in blocks of 4 inputs and scattered, compared with the dense network."""
    for units, depth in ((256, 3), (1024, 3)):
        with tempfile.TemporaryDirectory() as folder:
            arms = {"dense": None, "dense again": None, "4x1": "4x1", "scattered": None}
            reports = {}
            for name, structure in arms.items():
                model = pruned_mlp(units, depth, structure, 0.0 if name.startswith("dense") else 0.9)
                reports[name] = sparsity_tf.export(model, os.path.join(folder, f"{name}.tflite"))
            rows = {name: [name, f"{r.bytes:,}", r.sparse_tensors, r.densify] for name, r in reports.items()}
            for batch in map(int, FLAGS.batch):
                x = np.random.default_rng(0).normal(size=(batch, units)).astype("float32")
                measured = {
                    name: Arm(open_runtime("litert", report.path, threads=1).prepared([x]), FLAGS.seconds)
                    for name, report in reports.items()
                }
                run_in_turns(measured.values(), FLAGS.rounds)
                for name, arm in measured.items():
                    rows[name].append(speed(measured["dense"], arm))
            for name, report in reports.items():
                rows[name].append(f"{report.difference:.1e}")
        headers = ["arm", "LiteRT bytes", "sparse tensors", "DENSIFY"]
        headers += [f"LiteRT b{batch}" for batch in FLAGS.batch] + ["difference"]
        print(f"\n{depth} x Dense {units} + Dense 10, 90 % zeros")
        print(tabulate(list(rows.values()), headers=headers, disable_numparse=True), flush=True)


def main(argv):
    del argv
    if FLAGS.part != "shrink":
        {"files": measure_files, "blocks": measure_blocks}[FLAGS.part]()
        return
    if FLAGS.file:
        model = keras.saving.load_model(FLAGS.file, compile=False)
        arms = {"shrunk": shrunk(model), "shrunk, inputs selected": shrunk(model, select_inputs=True)}
        compare(FLAGS.file, sparsity_tf.to_dense(model), arms)
        return
    zeros = {"random": zero_filters, "tied": zero_groups, "channel": prune_channels}
    for name in FLAGS.models:
        arms = {}
        for sparsity in map(float, FLAGS.sparsity):
            for where in FLAGS.zeros:
                model = build(name)
                zeros[where](model, sparsity)
                arms[f"{where} {sparsity:.0%}"] = shrunk(model)
        for share in map(float, FLAGS.target_flops):
            model = build(name)
            sparsity_tf.prune(model, structure="channel", target_flops=share)
            arms[f"channel, {share:.0%} of the MACs"] = shrunk(model)
        compare(name, build(name), arms)


if __name__ == "__main__":
    app.run(main)
