"""Sparse neural networks in Keras 3: layers, callbacks, conversion and inspection.

```python
model = sparsity_tf.sparsify(model, "masked")
```
"""

__version__ = "0.1.0"

from sparsity_tf import callbacks, deploy, distributions, inspection, layers, masks, schedules
from sparsity_tf.deploy import shrink
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.load_masks import load_masks
from sparsity_tf.prune import PruneReport, prune
from sparsity_tf.refresh_statistics import refresh_statistics
from sparsity_tf.sparsify import SparsifyReport, sparsify
from sparsity_tf.to_dense import to_dense
