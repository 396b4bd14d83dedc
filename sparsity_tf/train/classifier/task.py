"""The task of the image classifiers: tells the trainer their images, network and test error, and draws pictures."""

import inspect
import math
import os

import keras

from sparsity_tf import initializers, inspection, models
from sparsity_tf.backend import always_compiles, has_xla
from sparsity_tf.layers import FastGRNN
from sparsity_tf.regularizers import GroupLasso
from sparsity_tf.train import log, optimizers, run_folder, technique
from sparsity_tf.train.classifier import analysis, pictures
from sparsity_tf.train.classifier.data import describe, load_data, make_batches
from sparsity_tf.train.classifier.evaluation import Evaluation
from sparsity_tf.train.losses import SmoothedCrossentropy
from sparsity_tf.train.sparsity_settings import naming_options
from sparsity_tf.train.task import Findings, Task

# Columns that a `SparsityMonitor` has beside the sparsities.
_OF_MASKS = ("threshold", "drop_fraction", "dropped", "grown", "mask_change")


class ClassifierLog(log.EpochLog):
    """The `EpochLog` of the classifiers: loss, accuracy and errors on held-out images.

    These are the validation images, in columns that begin with `val_`, if the run has some. Otherwise they are the test
    images, in columns that begin with `test_`. The columns that the CSV file of its `monitor` has beside the sparsities
    become TensorBoard scalars, too.
    """

    axis = "epoch"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._split, self._prefix = ("validation", "val") if self.batches.num_validation else ("test", "test")
        self.shown = (f"{self._prefix}_error",)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._evaluation = Evaluation(self.model, self.batches, self._split)

    def figures(self, logs):
        found = self._evaluation.run()
        return {
            "accuracy": float(logs["accuracy"]),
            f"{self._prefix}_loss": found.loss,
            f"{self._prefix}_accuracy": 1.0 - found.error,
            f"{self._prefix}_error": found.error,
            f"{self._prefix}_top5_error": found.top5_error,
        }

    def line(self, row):
        return (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}"
            f"  accuracy {100 * row['accuracy']:.2f} %"
            f"  {self._split} error {100 * row[f'{self._prefix}_error']:.2f} %"
            f"  {log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )

    def more_scalars(self, row):
        rows = self.monitor.rows if self.monitor else ()
        of_epoch = [of_weight for of_weight in rows if of_weight["epoch"] == row["epoch"] - 1]
        return [
            (f"{name}/{of_weight['weight']}", of_weight[name])
            for of_weight in of_epoch
            for name in _OF_MASKS
            if name in of_weight
        ]


class ClassifierTask(Task):
    """Image classifiers: `batches` are `datasets.Batches`."""

    log = ClassifierLog
    error = "val_error"

    def error_of(self, recipe):
        return self.error if recipe.validation_split else None

    def check(self, recipe, replicas):
        if recipe.batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of the {replicas} replicas. Received: batch_size={recipe.batch_size}"
            )
        if recipe.strategy in ("mirrored", "multiworker") and recipe.steps_per_execution > 1:
            raise ValueError(
                f"`steps_per_execution` must be 0 or 1 with strategy={recipe.strategy}. "
                f"Received: steps_per_execution={recipe.steps_per_execution}"
            )
        if recipe.strategy != "none" and recipe.technique == "lottery":
            raise ValueError(
                "`strategy` must be none with technique lottery, because its weights to rewind to lie in one "
                f"process. Received: strategy={recipe.strategy}"
            )

    def open_data(self, recipe, folder, resume, replicas):
        data = load_data(recipe)
        return make_batches(recipe, data), describe(data)

    def make_model(self, recipe, batches):
        builder = _network(recipe)
        with naming_options(recipe, "model_options", "technique_options"):
            model = builder(
                **recipe.model_options,
                input_shape=batches.image_shape,
                num_classes=batches.num_classes,
                kernel_regularizer=_regularizer(recipe),
                **technique.arguments(recipe),
                **_initializer(recipe),
            )
        if recipe.other_l2:
            _regularize_others(model, recipe.other_l2)
        technique.begin_with(model, recipe)
        analysis.check(recipe, model)
        return model

    def objective(self, recipe, batches):
        return {
            "optimizer": optimizers.make_optimizer(recipe, batches.steps_per_epoch),
            "loss": SmoothedCrossentropy(recipe.label_smoothing),
            "metrics": ["accuracy"],
        }

    def choose_jit_compile(self, recipe, model):
        """Whether to compile the step with XLA if the recipe says "auto".

        XLA is used always on a GPU and with JAX, and never on torch, which has another compiler. With TensorFlow on a
        CPU, it is used for nets of dense layers (LeNet-300-100 without technique: 0.94 s an epoch against 1.12 s, two
        cores), and not for nets with convolutions, because XLA:CPU computes their gradients about three times slower
        than TensorFlow's own kernels (LeNet-5: 8.2 s against 2.6 s for 60 steps).
        """
        if recipe.jit_compile != "auto":
            return recipe.jit_compile == "true"
        few_axes = all(len(variable.shape) <= 2 for variable in model.trainable_variables)
        return always_compiles() or (has_xla() and few_axes)

    def introduction(self, recipe, batches, model):
        examples = "images" if len(batches.image_shape) == 3 else "sequences"
        counts = [f"{batches.num_examples:,} training", f"{batches.num_test:,} test {examples}"]
        if batches.num_validation:
            counts.insert(1, f"{batches.num_validation:,} validation")
        return f"{', '.join(counts[:-1])} and {counts[-1]}; {model.name}"

    def more_callbacks(self, prepared):
        if not pictures.sees_images(prepared.model):
            return []
        return [pictures.Frames(prepared.output_dir, prepared.recipe.frame_every, prepared.epochs, prepared.done)]

    def examine(self, prepared, table, loss):
        evaluation = Evaluation(prepared.model, prepared.batches)
        figures = evaluation.run()
        results = _errors("test", figures)
        if prepared.batches.num_validation:
            results |= _errors("val", evaluation.run("validation"))
        collapsed = verdict(table, figures, loss, may_be_constant=prepared.recipe.random_labels != "none")
        if collapsed:
            return Findings(collapsed, collapsed, results)
        flops = inspection.count_flops(prepared.model)
        results["macs"] = {"dense": flops.dense, "sparse": flops.sparse}
        ranks = {layer.name: layer.ranks() for layer in prepared.model.layers if isinstance(layer, FastGRNN)}
        if ranks:
            results["ranks"] = ranks
        best = _measure_best(prepared) if prepared.chief and prepared.recipe.keep_best else None
        if best:
            results["best"] = best
        return Findings(None, f"test error {100 * figures.error:.2f} %", results)

    def finish(self, prepared, findings):
        if findings.collapsed:
            return []
        dense, sparse = (findings.results["macs"][name] for name in ("dense", "sparse"))
        example = "an image" if pictures.sees_images(prepared.model) else "a sequence"
        print(
            f"multiply-accumulates {example}: {dense:,} dense, {sparse:,} without the zeros "
            f"({100 * (sparse / dense):.2f} %)"
        )
        for name, (inputs, recurrent) in findings.results.get("ranks", {}).items():
            print(f"rank of {name}: {inputs} for the inputs, {recurrent} for the state")
        best = findings.results.get("best")
        if best:
            print(_line_of_best(best))
        analysed = analysis.write(prepared)
        drawn = pictures.draw(prepared.model, prepared.output_dir)
        return [run_folder.METRICS, run_folder.RESULTS, run_folder.MODEL, *analysed, *drawn]


def _errors(prefix, figures):
    """The entries of `results.json` for the figures of an `Evaluation`. JSON has no NaN, which becomes `None`."""
    errors = {f"{prefix}_{name}": getattr(figures, name) for name in ("error", "top5_error", "loss")}
    return {name: error if math.isfinite(error) else None for name, error in errors.items()}


def _line_of_best(best):
    """One line with the figures that `_measure_best` returns."""
    epoch = "" if best["epoch"] is None else f"epoch {best['epoch']}, "
    # Outputs may be finite for all validation images, but not for all test images.
    test = "is not finite" if best["test_error"] is None else f"{100 * best['test_error']:.2f} %"
    return (
        f"{run_folder.BEST}: {epoch}validation error {100 * best['val_error']:.2f} %, test error {test}, "
        f"sparsity {100 * best['sparsity']:.2f} %"
    )


def _measure_best(prepared):
    """Measures `best.keras`, which was chosen by the validation error; `None` if there is no such file or choice.

    Returns:
        Dict of `epoch` (`None` if the row of that epoch was lost), `val_error`, `test_error`, `test_top5_error`,
        `test_loss` and `sparsity`.
    """
    path = os.path.join(prepared.output_dir, run_folder.BEST)
    if not prepared.batches.num_validation or not os.path.exists(path):
        return None
    try:
        model = run_folder.load(path, compile=False)
    except ValueError as error:
        log.warn(f"{error} It is not measured.")
        return None
    model.jit_compile = prepared.model.jit_compile
    evaluation = Evaluation(model, prepared.batches, "validation")
    validation = evaluation.run()
    rows = log.read_metrics(prepared.output_dir, ("val_error",))
    epochs = [int(row["epoch"]) for row in rows if math.isclose(float(row["val_error"]), validation.error)]
    return {
        "epoch": next((epoch for epoch in epochs if epoch >= prepared.settled_epoch), None),
        "val_error": validation.error,
        **_errors("test", evaluation.run("test")),
        "sparsity": inspection.sparsity_table(model, include_dense=True).sparsity,
    }


def _network(recipe):
    """The builder of the recipe's network. Checks that `model_options` holds only arguments of this builder."""
    builder = getattr(models, recipe.model)
    given = {"input_shape", "num_classes", "kernel_initializer", "kernel_regularizer"}
    given |= {"technique", "technique_options", "where", "name"}
    parameters = inspect.signature(builder).parameters
    known = set(parameters) - given
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    unknown = sorted(set(recipe.model_options) - known)
    if unknown:
        raise ValueError(
            f"`model_options` of {recipe.model} may hold {', '.join(sorted(known)) or 'nothing'}. "
            f"Received: {', '.join(unknown)}"
        )
    if needed - set(recipe.model_options):
        raise ValueError(
            f"`model_options` of {recipe.model} must hold {', '.join(sorted(needed))}. Received: {recipe.model_options}"
        )
    return builder


def _initializer(recipe):
    """The initializer as an argument for the builder. "default" gives no argument: each layer keeps its paper's own."""
    name, _, stddev = recipe.kernel_initializer.partition(":")
    sparsity = recipe.final_sparsity if recipe.scale_fan else 0.0
    if name == "default":
        return {}
    if name == "normal":
        return {"kernel_initializer": keras.initializers.RandomNormal(stddev=float(stddev))}
    if name in ("signed_constant", "unsigned_constant"):
        return {"kernel_initializer": initializers.ScaledConstant(name == "signed_constant", sparsity)}
    if name == "torch_default":
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    else:
        initializer = keras.initializers.get(name)
    if recipe.scale_fan:
        settings = initializer.scale, initializer.mode, initializer.distribution
        initializer = initializers.PerLayerScaled(sparsity, *settings)
    return {"kernel_initializer": initializer}


def _regularize_others(model, factor):
    """Sets L2 on biases, gammas and betas, both on the built variables and in the config that is saved."""
    for layer in model.layers:
        for name in ("bias", "gamma", "beta"):
            variable = getattr(layer, name, None)
            if variable is not None and variable.trainable:
                regularizer = keras.regularizers.L2(factor)
                variable.regularizer = regularizer
                setattr(layer, f"{name}_regularizer", regularizer)


def _regularizer(recipe):
    if recipe.group_lasso:
        return GroupLasso(recipe.group_lasso)
    if recipe.kernel_l1:
        return keras.regularizers.L1L2(recipe.kernel_l1, recipe.kernel_l2)
    return keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None


def verdict(table, test, loss, may_be_constant=False):
    """Says what is wrong with a network; returns `None` if the network is sound and its sparsity may be reported.

    Args:
        table: `SparsityTable` of the network.
        test: `TestFigures` of the network.
        loss: Training loss of the last epoch.
        may_be_constant: Whether a network that predicts one class for all images may be sound: with random labels
            nothing can be learnt but the most frequent one.

    Returns:
        A sentence without a full stop that begins with "diverged:" or "collapsed:", or `None`.
    """
    if not table.finite:
        names = ", ".join(row.name for row in table.rows if not row.finite)
        return f"diverged: weights that are not finite in {names}; no sparsity is reported"
    if not test.finite:
        return "diverged: outputs that are not finite; no sparsity is reported"
    if not math.isfinite(loss):
        return "diverged: a training loss that is not finite; no sparsity is reported"
    if test.only_class is not None and not may_be_constant:
        return f"collapsed: the network predicts class {test.only_class} for every test image; no sparsity is reported"
    return None
