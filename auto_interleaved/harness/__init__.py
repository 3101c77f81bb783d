"""Evaluation harnesses that load the library as a model of theirs."""
