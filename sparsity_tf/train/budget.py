"""`python -m sparsity_tf.train.budget`: another spelling of `sparsity-tf budget`."""

import sys

from sparsity_tf.tools.budget import main

if __name__ == "__main__":
    sys.exit(main())
