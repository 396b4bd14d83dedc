"""`python -m sparsity_tf.train.import_checkpoint`: another spelling of `sparsity-tf import-checkpoint`."""

import sys

from sparsity_tf.tools.import_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
