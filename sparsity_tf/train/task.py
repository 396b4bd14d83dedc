"""What a training program must say of itself: `Task`, which `trainer.py` trains.

A program is a recipe (the settings), presets (recipes with a name) and a task (data, network, loss and figures). All
else is the trainer's: folder, checkpoints, masks, penalties, `fit` and the report.
"""

import abc
import dataclasses

from sparsity_tf.backend import always_compiles
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.train import run_folder


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a task finds out about a network at the end of its training.

    Attributes:
        collapsed: What is wrong with the network, or `None`: nothing is, and its sparsity may be reported.
        line: The figures, with which the last line of the output begins; of a collapsed network all of that line.
        results: Dict of the task's own entries in `results.json`.
    """

    collapsed: object
    line: str
    results: dict


class Task(abc.ABC):
    """A kind of network and its data, as `trainer.py` needs to know them.

    A task holds no state of a run: its functions take the recipe, and `batches`, which `open_data` opened. `batches`
    must have `train(first_step)`, an endless dataset that begins with the batch of an optimizer step (and takes a
    `tf.distribute.InputContext` second, if the recipe has a strategy), `steps_per_epoch`, `num_examples`, and `source`,
    a sentence that says where the data came from. A context `naming_errors()`, if it has one, is entered for `fit`.

    A recipe is a frozen dataclass that extends `SparsitySettings` with `data_dir`, `epochs`, `seed`, `jit_compile`,
    `dtype_policy` and `steps_per_execution`, with the four settings of the penalty that `classifier.Recipe` has (for
    techniques with a penalty), and with whatever the task itself reads.

    The attributes below are the defaults of a subclass.

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
    # By what a run is counted in its messages and results: a column of `metrics.csv`, "epoch" or "step".
    unit = "epoch"
    # The column of `metrics.csv` that is lowest in `best.keras`, for recipes with `keep_best`.
    error = None
    # Whether `fit` validates on `batches.validation()`.
    validates = False
    # Steps in one call of the compiled function at most, unless the recipe says how many.
    steps_per_call = 20

    def check(self, recipe, replicas):  # noqa: B027  (not every task has something to refuse)
        """Raises a ValueError if settings of the recipe do not suit its number of replicas."""

    @abc.abstractmethod
    def open_data(self, recipe, folder, resume, replicas):
        """Opens the recipe's data.

        Args:
            recipe: The recipe.
            folder: Folder of the run, which may not exist yet.
            resume: Whether the run in the folder is continued.
            replicas: Number of replicas that share a batch.

        Returns:
            `(batches, identity)`: the run's `batches`, and a dict of plain values by which these data are told from
            others, wherever they lie.

        Raises:
            FileNotFoundError, ModuleNotFoundError, ValueError: They are not there, or not sound.
        """

    def keep_data(self, batches, folder):  # noqa: B027  (nor to keep)
        """Copies into the folder of the run what of its data a later use of the network needs."""

    def steps_per_epoch(self, recipe, batches):
        """Steps between two checkpoints: what `fit` calls an epoch."""
        return batches.steps_per_epoch

    def first_batch(self, batches):
        """The run's first batch as arrays (x, y), on which algorithms measure that prune at initialisation."""
        return first_of(batches.train())[:2]

    def penalty_examples(self, recipe, batches):
        """By what the recipe's `penalty_weight` is divided: the examples of an epoch."""
        return batches.num_examples

    @abc.abstractmethod
    def make_model(self, recipe, batches):
        """The recipe's network with its technique for these data, not compiled.

        Raises:
            ValueError: An option that the network or the technique does not have, or a value it refuses; masks or
                weights that do not fit.
        """

    @abc.abstractmethod
    def objective(self, recipe, batches):
        """The arguments of `Model.compile` that say what is minimised: a dict of optimizer, loss and metrics."""

    def choose_jit_compile(self, recipe, model):
        """Whether to compile the step with XLA; where the recipe says "auto": where that is always best."""
        return always_compiles() if recipe.jit_compile == "auto" else recipe.jit_compile == "true"

    def choose_steps_per_execution(self, recipe, steps):
        """The largest divisor of `steps`, the steps an epoch, up to the recipe's number (0: `steps_per_call`).

        A divisor, because Keras runs the last call of an epoch in full, into the next epoch's data. Several replicas or
        workers take one: the collective operations of TensorFlow 2.21 fail in the loop over steps. (A TPU needs it.)
        """
        if recipe.strategy in ("mirrored", "multiworker"):
            return 1
        limit = recipe.steps_per_execution or self.steps_per_call
        return max(k for k in range(1, min(limit, steps) + 1) if steps % k == 0)

    @abc.abstractmethod
    def introduction(self, recipe, batches, model):
        """The sizes of data and network, with which the line begins that a run prints before it trains."""

    def more_callbacks(self, prepared):
        """Callbacks that write files of the task's own after each epoch: a list; for the chief only."""
        return []

    @abc.abstractmethod
    def examine(self, prepared, table, loss):
        """Measures the trained network.

        Args:
            prepared: The `trainer.Prepared` that was trained.
            table: `SparsityTable` of the network.
            loss: Training loss of the last epoch; NaN if training broke off, 0.0 if it is not known.

        Returns:
            `Findings`.
        """

    def finish(self, prepared, findings):
        """Writes the task's own files once the network is saved, and returns the names of files to point to."""
        return run_folder.outputs_in(prepared.output_dir)
