"""Problems by name, from files, from the Hub or made on the spot; how they are put to a model. Free of torch.

`load(DatasetSpec)` gives `Loaded`; `render.Renderer` makes prompts and training rows of its examples. A
plugin registers its own dataset with the decorator `dataset(name, grader=...)`.
"""

from jobs.data.example import BadRow, Example, Rendered
from jobs.data.load import Loaded, load
from jobs.data.registry import dataset, register

__all__ = ["BadRow", "Example", "Loaded", "Rendered", "dataset", "load", "register"]
