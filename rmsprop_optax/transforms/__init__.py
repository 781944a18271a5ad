"""Floor 3: a gradient transformation and its state, one file a concern."""
