"""`Task`: the part of a training program that `trainer.py` needs to know.

A program is a recipe (the settings), presets (recipes with a name) and a task (data, network, loss and figures). The
trainer does everything else: folder, checkpoints, masks, penalties, `fit` and the report.
"""

import abc
import dataclasses

from sparsity_tf.backend import always_compiles, has_xla
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.train import run_folder


@dataclasses.dataclass(frozen=True)
class Findings:
    """A task's findings about a network at the end of training.

    Attributes:
        collapsed: A sentence that says what is wrong with the network. `None`: the network is sound, and its sparsity
            may be reported.
        line: The figures with which the last line of the output begins. For a collapsed network, the whole last line.
        results: Dict of the task's own entries in `results.json`.
    """

    collapsed: object
    line: str
    results: dict


class Task(abc.ABC):
    """A kind of network and its data, described for `trainer.py`.

    A task holds no state of a run. Its functions take the recipe, and `batches`, which `open_data` opened. `batches`
    must have:

    - `train(first_step)`, an endless dataset that begins with the batch of an optimizer step. If the recipe has a
      strategy, `train` takes a `tf.distribute.InputContext` as its second argument;
    - `steps_per_epoch` and `num_examples`;
    - `source`, a sentence that says where the data came from.

    If `batches` has a context `naming_errors()`, the trainer enters it for `fit`.

    A recipe is a frozen dataclass that extends `SparsitySettings`. It adds `data_dir`, `epochs`, `seed`, `jit_compile`,
    `dtype_policy` and `steps_per_execution`, the four settings of the penalty that `classifier.Recipe` has (for
    techniques with a penalty), and all settings that the task itself reads.

    The attributes below are the defaults for subclasses.

    Example:

        class RegressorTask(Task):
            def open_data(self, recipe, folder, resume, replicas):
                batches = datasets.array_batches(datasets.mnist(recipe.data_dir), recipe.batch_size, seed=recipe.seed)
                return batches, {"examples": batches.num_examples}

            ...

        prepared = trainer.prepare(RegressorTask(), recipe, "runs/regressor")
        result = trainer.train(prepared)
    """

    # The class of the callback that writes the figures of an epoch, a subclass of `log.EpochLog`.
    log = None
    # The unit in which messages and results count a run: a column of `metrics.csv`, "epoch" or "step".
    unit = "epoch"
    # The column of `metrics.csv` by which `best.keras` is chosen (the lowest value), for recipes with `keep_best`. It
    # must be measured on held-out training data, never on the test set.
    error = None
    # Whether `fit` validates on `batches.validation()`.
    validates = False
    # Largest number of steps in one call of the compiled function, unless the recipe sets the number.
    steps_per_call = 20

    def check(self, recipe, replicas):  # noqa: B027  (not every task has something to refuse)
        """Raises a ValueError if settings of the recipe do not suit the number of replicas."""

    @abc.abstractmethod
    def open_data(self, recipe, folder, resume, replicas):
        """Opens the recipe's data.

        Args:
            recipe: The recipe.
            folder: Folder of the run, which may not exist yet.
            resume: Whether the run in the folder is continued.
            replicas: Number of replicas that share a batch.

        Returns:
            `(batches, identity)`: the run's `batches`, and a dict of plain values that describes the data independently
            of their folder. A continued run compares it.

        Raises:
            FileNotFoundError, ModuleNotFoundError, ValueError: The data are missing or damaged.
        """

    def keep_data(self, batches, folder):  # noqa: B027  (not every task has data to keep)
        """Copies data that a later use of the network needs, such as a vocabulary, into the folder of the run."""

    def error_of(self, recipe):
        """The column by which a recipe's `best.keras` is chosen; `None` if the recipe holds out nothing to choose by.

        With `None`, `best.keras` is the model of the last epoch.
        """
        return self.error

    def steps_per_epoch(self, recipe, batches):
        """The number of steps between two checkpoints. `fit` calls them an epoch."""
        return batches.steps_per_epoch

    def first_batch(self, batches):
        """The run's first batch as arrays (x, y). Algorithms that prune at initialisation measure on it."""
        return first_of(batches.train())[:2]

    def penalty_examples(self, recipe, batches):
        """The number by which the recipe's `penalty_weight` is divided: the examples in an epoch."""
        return batches.num_examples

    @abc.abstractmethod
    def make_model(self, recipe, batches):
        """Makes the recipe's network with its technique for these data, not compiled.

        Raises:
            ValueError: The network or the technique does not have an option or refuses its value, or masks or weights
                do not fit.
        """

    @abc.abstractmethod
    def objective(self, recipe, batches):
        """A dict of arguments for `Model.compile`: optimizer, loss and metrics."""

    def choose_jit_compile(self, recipe, model):
        """Whether to compile the step with XLA. If the recipe says "auto": only where XLA is always the best choice."""
        return always_compiles() if recipe.jit_compile == "auto" else recipe.jit_compile == "true"

    def choose_steps_per_execution(self, recipe, steps):
        """The number of steps in one call of the compiled function.

        The number is the largest divisor of `steps`, the steps in an epoch, that is at most the recipe's number (0:
        `steps_per_call`). It must be a divisor, because Keras runs the last call of an epoch in full, into the next
        epoch's data. With several replicas or workers the number is 1, because the collective operations of TensorFlow
        2.21 fail in the loop over steps. (A TPU needs the loop.) On torch it is 1 unless the recipe says another
        number, which Keras refuses.
        """
        if recipe.strategy in ("mirrored", "multiworker") or not (has_xla() or recipe.steps_per_execution):
            return 1
        limit = recipe.steps_per_execution or self.steps_per_call
        return max(k for k in range(1, min(limit, steps) + 1) if steps % k == 0)

    @abc.abstractmethod
    def introduction(self, recipe, batches, model):
        """The sizes of data and network. The line that a run prints before training begins with them."""

    def more_callbacks(self, prepared):
        """A list of callbacks that write the task's own files after each epoch. Only the chief uses them."""
        return []

    @abc.abstractmethod
    def examine(self, prepared, table, loss):
        """Measures the trained network.

        Args:
            prepared: The `trainer.Prepared` that was trained.
            table: `SparsityTable` of the network.
            loss: Training loss of the last epoch; NaN if training broke off, 0.0 if the loss is not known.

        Returns:
            `Findings`.
        """

    def finish(self, prepared, findings):
        """Writes the task's own files after the network is saved. Returns the names of files to show to the user."""
        return run_folder.outputs_in(prepared.output_dir)
