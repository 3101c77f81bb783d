"""How often a model is right about the picture book."""
