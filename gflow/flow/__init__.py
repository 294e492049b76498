"""Integration of the flow: charts and clocks -> field -> stop -> solve."""
