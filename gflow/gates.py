"""Gated ReLU: f(x) = sum_i a_i 1[g_i . x > 0] (w_i . x) with gates g_i that do not move.

Source: Mishkin, Sahiner & Pilanci, arXiv 2202.01331, section 3.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, Bool, Float

from gflow.activations import AbstractActivation


class Gates(AbstractActivation):
    """The slopes of the neurons of one network on one data set, `masks` (n, m): 1[g_i . x_n > 0].

    No activation of the catalogue: it is a function of the pair (n, i), and not of z alone. There are no kinks.
    """

    kinks: ClassVar[bool] = False

    masks: Bool[Array, "n m"]

    def slope_interval(self) -> tuple[float, float]:
        return 0.0, 0.0

    def slope(self, z: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """The gates, whatever z is."""
        return self.masks.astype(z.dtype)

    def sided(self, on: Bool[Array, "n m"], dtype) -> Float[Array, "n m"]:
        """The gates, whatever the side."""
        return self.masks.astype(dtype)
