"""latentctl: the control plane of latent-reasoning experiments. Light: it never imports torch or `jobs`."""

__version__ = "0.1.0"
