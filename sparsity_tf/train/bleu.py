"""`python -m sparsity_tf.train.bleu`: another spelling of `sparsity-tf bleu`."""

import sys

from sparsity_tf.tools.bleu import main

if __name__ == "__main__":
    sys.exit(main())
