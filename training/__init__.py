"""How the bundled model is made, and how any BAGEL checkpoint is taught to interleave."""
