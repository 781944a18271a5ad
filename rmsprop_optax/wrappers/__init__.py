"""Floor 4: transformation to transformation."""
