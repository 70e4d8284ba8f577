"""`method: coconut`: text steps become latent steps, stage by stage (arXiv 2412.06769)."""

from jobs.methods.coconut.method import Coconut

__all__ = ["Coconut"]
