"""Small dense linear algebra wants one thread: on systems of a hundred rows more threads only wait for each other.

On two busy cores the Newton steps of the max-margin program took a hundred times as long with two threads as with one.
"""

from __future__ import annotations

import functools


@functools.cache
def _controller():
    import scipy.linalg  # noqa: F401  (its BLAS has to be loaded to be found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread(function):
    """`function`, with the BLAS of NumPy and SciPy held to one thread while it runs."""

    @functools.wraps(function)
    def held(*arguments, **options):
        with _controller().limit(limits=1, user_api="blas"):
            return function(*arguments, **options)

    return held
