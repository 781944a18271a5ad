"""From any transformation to a transformation."""
