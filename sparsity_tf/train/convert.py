"""`python -m sparsity_tf.train.convert`: another spelling of `sparsity-tf convert`."""

import sys

from sparsity_tf.tools.convert import main

if __name__ == "__main__":
    sys.exit(main())
