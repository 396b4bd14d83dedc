"""`python -m sparsity_tf.train.summarize`: another spelling of `sparsity-tf summarize`."""

import sys

from sparsity_tf.tools.summarize import main

if __name__ == "__main__":
    sys.exit(main())
