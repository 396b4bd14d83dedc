"""`python -m sparsity_tf.checkpoint_sparsity` is another spelling of `sparsity-tf checkpoint-sparsity`."""

import sys

from sparsity_tf.tools.checkpoint_sparsity import main

if __name__ == "__main__":
    sys.exit(main())
