"""The results that the original systems published, as data: `published_results`.

The files are in the folder `data` beside this module, as their authors published them; `data/README.md` has sources and
licences. Errors in the files are mended when they are read, and every mended result says so (`mended`).
"""

import functools
import os
import pathlib
from collections.abc import Sequence

from sparsity_tf.checks import check_fraction, shown
from sparsity_tf.study import checkpoint_results, other_systems, state_of_sparsity
from sparsity_tf.study.result import PublishedResult, key

_FOLDER = pathlib.Path(__file__).parent / "data"
# Folders and files of the tables of the original repository of State of Sparsity.
_TABLES = "state_of_sparsity"
_CHECKPOINTS = "state_of_sparsity/published_checkpoints.csv"


def published_results(
    system: str | Sequence[str] | None = None,
    model: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    technique: str | Sequence[str] | None = None,
    sparsity: float | None = None,
    metric: str | Sequence[str] | None = None,
) -> list[PublishedResult]:
    """Returns the published results that this package holds.

    Names are compared by letters and digits alone, in lower case, so `"resnet_50"` finds `"ResNet-50"`.

    Args:
        system: `"state_of_sparsity"`, `"str"`, `"sparse_momentum"`, `"dsr"`, or a list of them; `None` for all. The
            other arguments that are names also take lists.
        model: For example `"Transformer"` or `"ResNet-50"`.
        dataset: For example `"ImageNet"`.
        technique: For example `"magnitude"`; `"none"` for dense networks.
        sparsity: The published sparsity, exactly.
        metric: `"BLEU"` or `"top-1 accuracy"`.

    Returns:
        List of `PublishedResult`, in the order of the files; empty if no result has all that is asked for.

    Raises:
        ValueError: An argument is of the wrong type, or a name that no result has. The message lists the names.

    Example:

    >>> results = published_results("state_of_sparsity", technique="vd", model="Transformer")
    >>> [(result.sparsity, result.score) for result in results][:3]
    [(0.5, 26.26), (0.6, 25.37), (0.7, 25.08)]
    """
    every = _all()
    wanted = {"system": system, "model": model, "dataset": dataset, "technique": technique, "metric": metric}
    for name, value in wanted.items():
        if value is not None:
            wanted[name] = _keys(name, value, list(dict.fromkeys(getattr(result, name) for result in every)))
    if sparsity is not None:
        check_fraction("sparsity", sparsity, closed=True)
        every = [result for result in every if result.sparsity == sparsity]
    return select(every, wanted)


def select(results, wanted):
    """The results whose fields have one of the wanted values.

    Args:
        results: List of `PublishedResult`.
        wanted: Dict from the name of a field to a set of keys (`result.key`), or to `None`, which asks for nothing.
    """
    wanted = {name: keys for name, keys in wanted.items() if keys is not None}
    return [result for result in results if all(key(getattr(result, name)) in keys for name, keys in wanted.items())]


def _keys(name, value, known):
    names = [value] if isinstance(value, str) else value
    by_key = {key(one): one for one in known}
    right = isinstance(names, list | tuple | set | frozenset) and len(names) > 0
    if not right or not all(isinstance(one, str) and key(one) in by_key for one in names):
        raise ValueError(
            f"`{name}` must be one of {', '.join(known)}, or a list of them. Received: {name}={shown(value)}"
        )
    return {key(one) for one in names}


def published_files() -> dict[str, str]:
    """The published files that this package holds.

    The list holds also the files that give no results: STR's budgets, which `budgets.read_csv` reads.

    Returns:
        Dict from the name of a file, such as `"str/STR_Budgets_ResNet50.csv"`, to its path.

    Example:

    >>> path = published_files()["str/STR_Budgets_ResNet50.csv"]
    >>> budget = sparsity_tf.budgets.read_csv(path, column="90.23")
    >>> len(budget), budget["conv1"]
    (54, 0.598)
    """
    files = sorted(path for path in _FOLDER.rglob("*") if path.suffix in (".csv", ".txt"))
    return {path.relative_to(_FOLDER).as_posix(): os.fspath(path) for path in files}


def _all():
    """All packaged results. They are read anew for each call, because a user may change their settings."""
    results = checkpoint_results.read_checkpoints(_FOLDER / _CHECKPOINTS, _CHECKPOINTS)
    for source, path in published_files().items():
        if source.startswith(f"{_TABLES}/sparse_"):
            results += state_of_sparsity.read_csv(path, source)
        elif source in _READERS:
            results += _READERS[source](_FOLDER, source)
        elif source.startswith("dsr/") and source.endswith(".txt"):
            results += other_systems.read_dsr_runs(_FOLDER, source)
    return results


def _sparse_momentum_readers():
    of = functools.partial
    readers = {
        "MNIST_sparse_summary": of(other_systems.read_summary, model="LeNet-300-100", dataset="MNIST", scale=100),
        "WRN-28-2_results_summary": of(other_systems.read_summary, model="WRN-28-2", dataset="CIFAR-10", scale=0.01),
        "imagenet_logs": other_systems.read_imagenet_logs,
    }
    for name, model in (("lenet300-100", "LeNet-300-100"), ("lenet5", "LeNet-5-Caffe")):
        readers[f"MNIST_compression_comparison_{name}"] = of(other_systems.read_compression, model=model)
    for name, model in (("alexnet-s", "AlexNet-s"), ("vgg-d", "VGG-D")):
        for setting in ("momentum", "prune_rate"):
            readers[f"sensitivity_{setting}_{name}"] = of(other_systems.read_sensitivity, model=model)
    return {f"sparse_momentum/{name}.csv": reader for name, reader in readers.items()}


_READERS = {
    "str/readme_models.csv": other_systems.read_str,
    "dsr/imagenet.csv": other_systems.read_dsr_imagenet,
    **_sparse_momentum_readers(),
}
