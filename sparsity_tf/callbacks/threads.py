"""The work of a mask update on several weights at once: numpy lets go of Python's lock while it computes."""

import concurrent.futures
import os

# Number of entries above which starting threads takes less time than they save.
_WORTH_THREADS = 1 << 18


def map_each(size, function, *sequences):
    """`list(map(function, *sequences))`, in threads if it is about many numbers.

    Args:
        size: How many numbers all calls together work on.
        function: Function that changes nothing outside itself.
        *sequences: Its arguments.
    """
    if size < _WORTH_THREADS:
        return list(map(function, *sequences))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *sequences))
