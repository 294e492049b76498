"""The flow at q_min = infinity: steepest ascent of the smallest margin, to the limit of its direction."""
