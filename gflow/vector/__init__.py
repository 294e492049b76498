"""K outputs: the dual's maximum, the max-margin program, exact limits and certificates.

Source: docs/mathematics.md, "Vector output".
"""
