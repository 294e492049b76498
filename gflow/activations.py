"""CATALOGUE of positively homogeneous activations: value, slope and the slope's interval at the kink.

A new activation is a class here and nowhere else. Source: arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow._types import Module, namespace


class AbstractActivation(Module):
    """sigma(z), positively homogeneous of degree 1, with one kink at z = 0."""

    kinks: ClassVar[bool] = True
    """Whether there is one: fixed gates (`gates.py`) have none, and are no function of z."""

    @abc.abstractmethod
    def slope_interval(self) -> tuple[float, float]:
        """(slope for z < 0, slope for z > 0). At z = 0 the Clarke subdifferential is the interval between them."""

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """sigma(z), elementwise."""
        return self.slope(z) * z

    def slope(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """sigma'(z) with sigma'(0) = the lower slope, written by hand: autodiff disagrees with itself at a kink."""
        lower, upper = self.slope_interval()
        xp = namespace(z)
        return xp.where(z > 0, xp.asarray(upper, z.dtype), xp.asarray(lower, z.dtype))

    def sided(self, on: Bool[Array, "n m"], dtype) -> Float[Array, "n m"]:
        """The upper slope where `on`, else the lower one."""
        lower, upper = self.slope_interval()
        return jnp.where(on, jnp.asarray(upper, dtype), jnp.asarray(lower, dtype))


class ReLU(AbstractActivation):
    """sigma(z) = max(z, 0)."""

    def slope_interval(self) -> tuple[float, float]:
        return 0.0, 1.0


class LeakyReLU(AbstractActivation):
    """sigma(z) = max(z, alpha z), 0 <= alpha < 1. No neuron ever dies. Raises ValueError for another alpha."""

    alpha: float = 0.01

    def __check_init__(self):
        if not 0 <= self.alpha < 1:
            raise ValueError(f"the slope of a leaky ReLU is at least 0 and below 1, got {self.alpha}")

    def slope_interval(self) -> tuple[float, float]:
        return self.alpha, 1.0


def activation_named(text: str) -> AbstractActivation:
    """The activation of "relu" or "leaky-relu:ALPHA". Raises ValueError for anything else."""
    name, _, alpha = text.partition(":")
    if text == "relu":
        return ReLU()
    if name == "leaky-relu" and alpha:
        return LeakyReLU(float(alpha))
    raise ValueError(f"an activation is relu or leaky-relu:ALPHA, got {text!r}")


__all__ = ["LeakyReLU", "ReLU"]
