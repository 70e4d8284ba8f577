"""Key-token tree search: generation that branches where a token decides."""

from jobs.generate.tree.search import Judge, TreeSearch

__all__ = ["Judge", "TreeSearch"]
