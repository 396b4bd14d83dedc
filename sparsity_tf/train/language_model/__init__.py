"""Training of character models: `python -m sparsity_tf.train.language_model`."""
