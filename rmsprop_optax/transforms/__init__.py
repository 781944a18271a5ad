"""Dense gradient transformations with their state, one idea a file."""
