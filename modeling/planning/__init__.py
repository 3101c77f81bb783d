"""What fits into a given memory, worked out from shapes alone: no weights are read for it."""
