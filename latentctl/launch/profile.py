"""The cluster profile that somebody names."""

from __future__ import annotations

from latentctl.errors import UserError
from latentctl.launch import gpus
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.load import load_profile


def profile_named(name: str) -> ClusterProfile:
    """The profile; on this machine with its GPUs counted where the profile does not say. Raises UserError."""
    profile = load_profile(name)
    if profile.executor == "local" and profile.gpus_per_node == 0:
        try:
            found = len(gpus.visible())
        except ValueError as error:
            raise UserError(str(error)) from None
        profile = profile.model_copy(update={"gpus_per_node": found})
    return profile
