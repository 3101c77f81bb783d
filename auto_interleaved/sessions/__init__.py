"""Talks: contexts and a history that outlive one run."""
