"""What `sparsity_tf.prune` computes: the scores of weights, the selection, and the methods that also change weights.

`prune` is the public function. `scores.py` holds the scores, and `selection.py` the masks that follow from them.
`synflow.py` prunes in rounds. `layer_hessian.py` measures the inputs of a layer on data. From them
`optimal_brain_surgeon.py` and `sparse_gpt.py` compute which weights of the layer to prune, and new values for the
others, which `refit.py` does for all layers of a model.
"""

__all__ = []


def __dir__():
    return __all__
