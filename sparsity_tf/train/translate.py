"""`python -m sparsity_tf.train.translate`: another spelling of `sparsity-tf translate`."""

import sys

from sparsity_tf.tools.translate import main

if __name__ == "__main__":
    sys.exit(main())
