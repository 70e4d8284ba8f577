"""Keeps the keys and values of latent steps from being taken for those of tokens.

vLLM's prefix cache knows a block by its token ids, and a latent position's id is a placeholder. So latent
requests are salted: no other prompt meets their blocks. Those of one group, which have one prompt, share that
prompt's blocks and nothing behind, because a request looks blocks up by its prompt alone, but for one that
was preempted: that one computes all of its positions again.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from jobs.generate.vllm_plugin.wire import asked, looks_back


class _Salted(Scheduler):
    def add_request(self, request: Any) -> None:
        said = asked(request.sampling_params)
        if said is not None:
            request.cache_salt = f"latent/{said['group'] or request.request_id}/{request.cache_salt or ''}"
            request.block_hashes.clear()
            request.update_block_hashes()
            request.skip_reading_prefix_cache |= looks_back(said)
        super().add_request(request)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if asked(request.sampling_params) is not None:
            request.skip_reading_prefix_cache = True


class LatentScheduler(_Salted):
    """`scheduler_cls` where a step waits for the one before."""


class LatentAsyncScheduler(_Salted, AsyncScheduler):
    """`scheduler_cls` where steps are scheduled ahead."""
