"""Training of sentence translators: `python -m sparsity_tf.train.translator`."""
