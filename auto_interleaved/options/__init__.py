"""Every keyword of a run, checked before anything is computed."""
