"""The small commands: `sparsity-tf convert`, `evaluate`, `budget`, ..."""
