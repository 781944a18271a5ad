"""Steps on many devices, and how their state is sharded."""
