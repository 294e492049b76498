"""Catalogue of the convex programs with which the end of a flow competes."""
