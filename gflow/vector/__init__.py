"""K outputs: the dual's maximum, the max-margin program, exact limits and certificates. Theory, "Vector output"."""
