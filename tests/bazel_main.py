"""What every Bazel test target runs: pytest on the file that is named as its argument."""

import sys

import pytest

if __name__ == "__main__":
    code = pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]])
    # A file with slow tests only has nothing to run here; that is no failure.
    sys.exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code))
