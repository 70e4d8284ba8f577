"""vLLM's engine as the server sees it, with latent steps decided before a request goes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from jobs.generate.vllm_plugin import wire
from jobs.serve.admission import Admission
from jobs.serve.traces import Traces


class LatentLLM(AsyncLLM):
    """`AsyncLLM` whose requests may take latent steps. `admission` is set before the first of them."""

    admission: Admission
    traces: Traces

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any) -> Any:
        """As vLLM's own. A request that is refused is refused here, before an answer has begun: that is a 400
        for streams too."""
        try:
            admitted = self.admission.admit(sampling_params, _ids(prompt))
        except ValueError as error:
            raise VLLMValidationError(str(error), parameter="vllm_xargs") from error
        sampling_params.extra_args = admitted.extra
        if not admitted.latent:
            return super().generate(prompt, sampling_params, request_id, **kwargs)
        answers = super().generate(_of(prompt, admitted.ids), sampling_params, request_id, **kwargs)
        return self._thinking(answers, request_id, sampling_params.n, admitted.trace)

    async def add_request(self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        queue = await super().add_request(request_id, prompt, params, *args, **kwargs)
        if wire.asked(params) is not None:
            self.traces.known(request_id, queue.request_id)
        return queue

    async def _thinking(
        self, answers: AsyncGenerator[RequestOutput, None], request_id: str, count: int, trace: bool
    ) -> AsyncGenerator[RequestOutput, None]:
        """Hand the answers on; the workers then give up what they hold of the request, whether it ended or
        was given up."""
        whole = False
        try:
            async for answer in answers:
                whole = answer.finished
                if whole and trace:
                    await self._collect(request_id, count, keep=True)
                yield answer
        finally:
            if not (whole and trace):
                task = asyncio.get_running_loop().create_task(self._collect(request_id, count, keep=False))
                self.traces.collecting.add(task)
                task.add_done_callback(self.traces.collecting.discard)

    async def _collect(self, request_id: str, count: int, *, keep: bool) -> None:
        held = self.traces.taken(request_id, count)
        if not held:
            return
        try:
            told = (await self.collective_rpc("latent_pop", args=(held,)))[0]
        except EngineDeadError:  # whoever waits for the answer is told
            return
        if keep:
            self.traces.keep(request_id, [told[one] for one in held if one in told])


def _ids(prompt: Any) -> list[int] | None:
    """Of a rendered prompt; None where it is not made of tokens."""
    return prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None


def _of(prompt: Any, ids: list[int]) -> Any:
    """The rendered prompt with these token ids."""
    return {**prompt, "prompt_token_ids": ids}
