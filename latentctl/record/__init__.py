"""The run directory: where things stand and how they are written. Stdlib only; imported by both planes."""
