"""Types, trees, dtypes, mesh axes, and every check with its wording."""
