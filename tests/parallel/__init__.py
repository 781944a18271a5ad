"""Steps on many devices, and where their state lies."""
