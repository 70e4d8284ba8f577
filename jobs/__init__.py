"""The data plane: what runs on compute nodes.

It meets the control plane in the spec and the run directory only.
"""
