"""A page to chat with a model on: texts stream, pictures grow, and a talk can be taken back."""
