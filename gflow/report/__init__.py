"""The page of a sweep: one HTML file with its tables and figures, which needs no network."""
