"""Reads finished runs of the training programs, for a comparison with published results: `read_run`."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence

from sparsity_tf.bounded_files import DamagedFileError, read_json
from sparsity_tf.checks import check_choice, check_path, is_finite_number, shown
from sparsity_tf.train import aliases, run_folder
from sparsity_tf.type_names import PathLike

# Settings that may differ between repeats of an experiment: the seed, and what does not influence the weights. (The
# folder of the data counts, because another text or corpus is another experiment.)
_NOT_OF_EXPERIMENT = {"seed", *run_folder.FREE} - {"data_dir"}
# Other names of techniques.
_TECHNIQUES = {"gmp": "magnitude", "snfs": "sparse_momentum"}
SPARSITY_OF = ("sparse_weights", "kernels")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of a training program.

    Args:
        folder: Folder of the run.
        model: The recipe's `model`; `"Transformer"` for the translator, `"CharRNN"` for the language model,
            `"TextLSTM"` for the text classifier.
        technique: The recipe's `technique`.
        sparsity: Fraction of zeros; `None` if the network collapsed.
        metric: `"top-1 accuracy"` (percent), `"BLEU"`, `"perplexity"` or `"bits per character"`.
        score: The metric's value; `None` if the network collapsed without one.
        flops: Multiply-accumulates of one input without the zeros, or `None`.
        seed: The recipe's `seed`.
        settings: Dict of the recipe without the seed and what is only logged or kept. Runs with equal settings are
            repeats.
        collapsed: A sentence that says what is wrong with the network, or `None`.

    Example:

    >>> run = Run("runs/a", "lenet_300_100", "rigl", 0.9, "top-1 accuracy", 98.1, None, seed=0, settings={})
    >>> tradeoff_table(runs=[run]).rows[0].score
    98.1
    """

    folder: str
    model: str
    technique: str
    sparsity: float | None
    metric: str
    score: float | None
    flops: float | None
    seed: int
    settings: dict = dataclasses.field(hash=False)
    collapsed: str | None = None


def read_run(folder: PathLike, sparsity_of: str = "sparse_weights") -> Run:
    """Reads a finished run.

    Args:
        folder: Folder that a training program wrote, with `results.json`.
        sparsity_of: `"sparse_weights"`, the weights that the technique may prune, as most published tables count; or
            `"kernels"`, all kernels and embeddings. A network without sparse layers has only the second.

    Returns:
        `Run`.

    Raises:
        ValueError: The folder is no finished run, or `results.json` is damaged. The message names the file.
        OSError: The file can't be read.

    Example:

    ```python
    import json

    recipe = {"technique": "rigl", "model": "lenet_300_100", "seed": 0}
    with open("results.json", "w") as file:  # A training program writes more.
        json.dump({"recipe": recipe, "collapsed": None, "test_error": 0.02, "sparsity": 0.9}, file)
    run = read_run(".")
    print(run.technique, run.sparsity, run.score)
    ```
    """
    check_path("folder", folder)
    check_choice("sparsity_of", sparsity_of, SPARSITY_OF)
    folder = os.fspath(folder)
    path = os.path.join(folder, run_folder.RESULTS)
    if not os.path.isfile(path):
        reason = f"it has no {run_folder.RESULTS}" if os.path.isdir(folder) else "there is no such folder"
        raise ValueError(f"`folder` must hold a finished run of a training program. Received: {folder!r} ({reason})")
    results = _Entries(path, read_json(path))
    recipe = results.get("recipe", dict)
    settings = {aliases.RENAMED.get(name, name): value for name, value in recipe.items()}
    metric, score = _score(results)
    collapsed = results.get("collapsed", str | None)
    kernels = sparsity = None
    if collapsed is None:
        kernels = results.fraction("sparsity")
        sparsity = results.fraction("sparsity_of_sparse_weights", optional=True)
        if score is None:
            raise DamagedFileError(path, f"it has no {metric}")
    of_kernels = sparsity_of == "kernels" or sparsity is None
    macs = results.get("macs", dict | None) or {}
    technique = _Entries(path, settings).get("technique", str)
    return Run(
        folder=folder,
        model=settings.get("model") or _network(settings),
        technique=_TECHNIQUES.get(technique, technique),
        sparsity=kernels if of_kernels else sparsity,
        metric=metric,
        score=score,
        flops=_Entries(path, macs).get("sparse", int | float | None),
        seed=_Entries(path, settings).get("seed", int),
        settings={name: value for name, value in settings.items() if name not in _NOT_OF_EXPERIMENT},
        collapsed=collapsed,
    )


def _network(settings):
    """The network of a program that has only one."""
    return "CharRNN" if "cell" in settings else "TextLSTM" if "min_count" in settings else "Transformer"


class _Entries:
    """The entries of a JSON object, checked when they are read."""

    def __init__(self, path, entries):
        if not isinstance(entries, dict):
            raise DamagedFileError(path, "it must hold a JSON object")
        self.path = path
        self.entries = entries

    def __contains__(self, name):
        return name in self.entries

    def get(self, name, kind):
        value = self.entries.get(name)
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, kind) or isinstance(value, bool) or not finite:
            raise DamagedFileError(self.path, f"its entry {name!r} is {shown(value)}")
        return value

    def fraction(self, name, optional=False):
        value = self.get(name, int | float | None if optional else int | float)
        if value is not None and not 0 <= value <= 1:
            raise DamagedFileError(self.path, f"its entry {name!r} is {shown(value)}")
        return value


def _score(results):
    """(metric, its value or `None`) of a run."""
    if "test_error" in results:
        error = results.get("test_error", int | float | None)
        return "top-1 accuracy", None if error is None else round(100 * (1 - error), 10)
    if "bleu" in results:
        return "BLEU", results.get("bleu", int | float)
    for group, entry, metric in (
        ("validation", "perplexity", "perplexity"),
        ("bits_per_character", "test", "bits per character"),
    ):
        if group in results:
            values = results.get(group, dict | None) or {}
            value = values.get(entry)
            return metric, value if is_finite_number(value) else None
    raise DamagedFileError(results.path, "it has no score: neither test_error, bleu, validation nor bits_per_character")


def read_runs(runs: Sequence[PathLike | Run], sparsity_of: str = "sparse_weights") -> list[Run]:
    """Reads several finished runs.

    Args:
        runs: List of folders, as for `read_run`, or of `Run`s, which are returned as they are.
        sparsity_of: As for `read_run`.

    Returns:
        List of `Run`s. A copy of another run (the same settings, seed, sparsity and score) is left out, because it is
        no repeat.

    Raises:
        ValueError: `runs` is not a list, or an entry can't be read.

    Example:

    >>> run = Run("runs/a", "lenet_300_100", "rigl", 0.9, "top-1 accuracy", 98.1, None, seed=0, settings={})
    >>> read_runs([run, run]) == [run]
    True
    """
    if not isinstance(runs, list | tuple) or not all(isinstance(one, str | os.PathLike | Run) and one for one in runs):
        raise ValueError(f"`runs` must be a list of folders of runs. Received: runs={shown(runs)}")
    found = {}
    for one in runs:
        run = one if isinstance(one, Run) else read_run(one, sparsity_of)
        found.setdefault((experiment(run), run.seed, run.sparsity, run.score), run)
    return list(found.values())


def experiment(run):
    """A text that is equal for repeats of one experiment."""
    return json.dumps([run.technique, run.model, run.settings], sort_keys=True, default=str)
