"""traced_once: a function of arrays that JAX traces once for equal shapes and settings, however often it is called.

A step takes seconds to trace, and a loop of diffrax asks for it four times: for shapes, and for the body of its loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

Out = TypeVar("Out")


def traced_once(function: Callable[..., Out], *, inline: bool = False) -> Callable[..., Out]:
    """The same, for use inside other compiled functions, which call what is traced, or, if `inline`, copy it.

    Arguments: any trees whose leaves are arrays or can be hashed. Leaves of the result become arrays.
    """

    @functools.partial(jax.jit, static_argnums=0, inline=inline)
    def of_arrays(settings, arrays):
        leaves, tree = settings
        left = iter(arrays)
        return function(*jax.tree.unflatten(tree, [next(left) if leaf is ARRAY else leaf for leaf in leaves]))

    @functools.wraps(function)
    def traced(*args) -> Out:
        leaves, tree = jax.tree.flatten(args)
        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        return of_arrays((tuple(ARRAY if _is_array(leaf) else leaf for leaf in leaves), tree), arrays)

    return traced


ARRAY = object()
"""In place of a leaf that is one."""


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
