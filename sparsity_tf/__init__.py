"""Sparse neural networks in Keras 3: layers, callbacks, conversion and inspection.

```python
model = sparsity_tf.sparsify(model, "masked")
```

Every name of `__all__` can be used after `import sparsity_tf`. The modules of `_LAZY` are imported when they are first
used.
"""

__version__ = "0.2.0"

import importlib
import typing

from sparsity_tf import extras, quiet_programs

quiet_programs.quieten()
extras.import_keras()

# `initializers`, `models` and `regularizers` register their classes with Keras, which can't load files that hold them
# otherwise.
from sparsity_tf import (
    callbacks,
    deploy,
    distributions,
    initializers,
    inspection,
    layers,
    masks,
    models,
    regularizers,
    schedules,
)
from sparsity_tf.deploy import deployment_report, export, save_compact, shrink
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.load_masks import load_masks
from sparsity_tf.prune import PruneReport, prune
from sparsity_tf.refresh_statistics import refresh_statistics
from sparsity_tf.sparsify import SparsifyReport, sparsify
from sparsity_tf.to_dense import to_dense

if typing.TYPE_CHECKING:  # For editors, which don't run `__getattr__`.
    from sparsity_tf import checkpoints, datasets, decoding, study
    from sparsity_tf.distributions import budgets
    from sparsity_tf.masks import structures

# Name -> module that is imported when it is first used.
_LAZY = {
    **{name: f"{__name__}.{name}" for name in ("checkpoints", "datasets", "decoding", "study")},
    "budgets": f"{__name__}.distributions.budgets",
    "structures": f"{__name__}.masks.structures",
}

__all__ = [
    "PruneReport",
    "SparsifyReport",
    "budgets",
    "callbacks",
    "checkpoints",
    "datasets",
    "decoding",
    "deploy",
    "deployment_report",
    "distributions",
    "export",
    "get_sparse_weights",
    "initializers",
    "inspection",
    "layers",
    "load_masks",
    "masks",
    "models",
    "prune",
    "refresh_statistics",
    "regularizers",
    "save_compact",
    "schedules",
    "shrink",
    "sparsify",
    "structures",
    "study",
    "to_dense",
]


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return ["__version__", *__all__]
