"""A study: methods, the axes that each of them runs over, and the runs that these make."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence

from sparsity_tf.checks import check_instance
from sparsity_tf.study import programs
from sparsity_tf.study.selection import METRICS, Metric

# The longest name of a folder that is taken as it is.
_LONGEST = 80


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a study: a technique with its settings.

    Attributes:
        name: Its name in tables, pictures and folders.
        config: Name of the preset.
        settings: Dict of the settings of all its runs, which replace the preset's.
        axes: Dict from a setting to the list of its values. Each combination has a row in the table.
        tune: Dict from a setting to the list of its values, or for a search to a dict of `low` and `high`. Validation
            data choose the best combination of a row.
        line: Number of the line in the study file with which the method begins.
    """

    name: str
    config: str
    settings: dict
    axes: dict
    tune: dict
    line: int = 1


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study: an ordinary run of a training program.

    Attributes:
        method: The `Method`.
        axes: Dict of the values of the method's axes.
        tuned: Dict of the values that validation data choose among.
        seed: Integer.
        folder: Path of its folder, relative to the folder of the study.
        arguments: Tuple of str, the command line of the program but for its folder.
    """

    method: Method
    axes: dict
    tuned: dict
    seed: int
    folder: str
    arguments: tuple

    @property
    def label(self) -> str:
        """The run in words, for messages."""
        settings = [f"{name}={value}" for name, value in {**self.axes, **self.tuned}.items()]
        return ", ".join([self.method.name, *settings, f"seed {self.seed}"])


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, as `read_study` reads it from a file.

    Args:
        name: The file's name without its ending.
        program: `"classifier"`, `"translator"`, `"language_model"` or `"text_classifier"`.
        methods: Tuple of methods.
        seeds: Tuple of integers.
        metric: Name of the figure on validation data that chooses settings: `"val_error"`, ...
        threads: Number of threads of each run, or `None` for the backend's own number.
        trials: Number of settings that a search tries for each row, or `None` for the whole grid.
        tune_seeds: Tuple of those seeds with which every combination of the settings to tune runs. The other seeds
            run the chosen combination alone. Empty: every combination runs with every seed.

    Example:

    >>> study = Study("mine", "classifier", methods=(), seeds=(0, 1), metric="val_error")
    >>> study.runs()
    []
    """

    name: str
    program: str
    methods: tuple
    seeds: tuple
    metric: str
    threads: int | None = None
    trials: int | None = None
    tune_seeds: tuple = ()

    def only(self, methods: Sequence[str]) -> "Study":
        """The study with some of its methods. Its runs have the folders that they have in the whole study.

        Args:
            methods: List of names of methods. Their order does not count: the study keeps its own.

        Raises:
            ValueError: `methods` is no list, is empty, or holds a name that no method of the study has.

        Example:

        ```python
        text = '''
        program = "classifier"
        seeds = [0]
        [settings]
        validation_split = 0.1
        [[methods]]
        config = "lenet300_rigl"
        [[methods]]
        config = "lenet300_set"
        '''
        with open("two.toml", "w") as file:
            file.write(text)
        study = read_study("two.toml").only(["lenet300_rigl"])
        ```
        """
        known = [method.name for method in self.methods]
        check_instance("methods", methods, list, tuple)
        if not methods or not all(one in known for one in methods):
            raise ValueError(
                f"`methods` must be a list of methods of the study: {', '.join(map(repr, known))}. Received: {methods=}"
            )
        return dataclasses.replace(self, methods=tuple(one for one in self.methods if one.name in methods))

    def runs(self) -> list[PlannedRun]:
        """All runs of the grid, in the order of the file. Each has a `label`, a `folder` and `arguments`."""
        return [run for method in self.methods for axes in combinations(method.axes) for run in self.of(method, axes)]

    def of(self, method: Method, axes: dict) -> list[PlannedRun]:
        """The runs of one row of the table: every combination of the settings to tune, with every seed."""
        return [one for tuned in combinations(method.tune) for one in self.repeats(method, axes, tuned)]

    def repeats(self, method: Method, axes: dict, tuned: dict) -> list[PlannedRun]:
        """The runs of one combination of settings, one for each seed."""
        return [self._run(method, axes, tuned, seed) for seed in self.seeds]

    def chooses_by(self, run: PlannedRun) -> bool:
        """Whether a run has a part in the choice of the settings of its row."""
        return not self.tune_seeds or not run.tuned or run.seed in self.tune_seeds

    def _run(self, method, axes, tuned, seed):
        chosen = {**axes, **tuned}
        values = {**method.settings, **chosen, "seed": seed}
        flags = [programs.flag_of("config", method.config), *itertools.starmap(programs.flag_of, values.items())]
        # Sorted, so that a change of the order in the file makes no other folders.
        named = ",".join(f"{name}={chosen[name]}" for name in sorted(chosen))
        parts = [file_name(method.name), *([file_name(named)] if named else []), f"seed-{seed}"]
        return PlannedRun(method, axes, tuned, seed, "/".join(parts), tuple(flags))

    @property
    def choice(self) -> Metric:
        """The `Metric`."""
        return METRICS[self.metric]


def combinations(values):
    """A list of dicts, one for each combination of the values. Without values, one empty dict.

    Example:

    >>> combinations({"final_sparsity": [0.8, 0.9], "seed": [0]})
    [{'final_sparsity': 0.8, 'seed': 0}, {'final_sparsity': 0.9, 'seed': 0}]
    """
    lists = map(values_of, values.values())
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*lists)]


def values_of(entry):
    """The list of values of a setting. Of a range, a dict for a search, these are its two ends."""
    return [entry["low"], entry["high"]] if isinstance(entry, dict) else entry


def file_name(text):
    """A name for a folder. A text with signs that a file system may refuse, or a long one, ends in a checksum."""
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text).lstrip(".")
    if name == text and len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
