"""The divergence model: its data, its training, its evaluation (document 000)."""
