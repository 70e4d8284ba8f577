"""The method `probe`: what `check` looks at on the login node, looked at from a compute node."""

from __future__ import annotations

import os
import shutil
from typing import Any, cast

from jobs.methods.protocol import StageContext
from jobs.preflight.inspect import run as preflight
from jobs.runtime import doctor
from latentctl.spec.probe import ProbeSettings


class Probe:
    """Every process looks at its machine; rank 0's findings count."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(ProbeSettings, ctx.stage.settings)

    def run(self) -> dict[str, Any]:
        """What `jobs.preflight.inspect` finds, and `machine`: host, GPUs, free space, versions."""
        payload = {"recipes": [self.settings.recipe], "data_dir": self.ctx.data_dir, "here": True}
        (found,) = preflight(payload)["points"]
        return {**found, "machine": doctor.run({}) | {"free": _free(self.ctx)}}


def _free(ctx: StageContext) -> dict[str, int]:
    """Bytes that may be written where jobs write."""
    places = {"runs": str(ctx.run.root), "tmp": os.environ.get("TMPDIR", "/tmp")}
    return {name: shutil.disk_usage(place).free for name, place in places.items() if os.path.isdir(place)}
