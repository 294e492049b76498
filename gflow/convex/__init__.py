"""The convex side: arrangements -> faces -> oracle -> column generation; Newton on a reduced KKT system."""
