"""Training of image classifiers: `python -m sparsity_tf.train.classifier`."""
