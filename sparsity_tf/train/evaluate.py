"""`python -m sparsity_tf.train.evaluate`: another spelling of `sparsity-tf evaluate`."""

import sys

from sparsity_tf.tools.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
