"""The server: vLLM's own routes on an engine that takes latent steps, and two routes of ours."""

from __future__ import annotations

import socket
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from transformers import PretrainedConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.system_utils import set_ulimit

from jobs.generate.text import eos_ids
from jobs.serve.admission import Admission
from jobs.serve.client import LatentLLM
from jobs.serve.engine import arguments, check_fits, config_of, plugin
from jobs.serve.example import example
from jobs.serve.told import Told
from jobs.serve.traces import KEPT, Traces
from latentctl.spec.latent import LatentSpec

router = APIRouter()


@router.get("/v1/latent")
async def settings(raw: Request) -> dict[str, Any]:
    """What `latent: on` means here, what a request gets that does not say, and a first question to try."""
    return raw.app.state.latent_about


@router.get("/v1/latent/traces/{answer}")
async def trace(answer: str, raw: Request) -> dict[str, Any]:
    """The latent steps of an answer that was asked for with `latent_trace`."""
    found = raw.app.state.engine_client.traces.of(answer)
    if found is None:
        hint = f"ask with latent_trace, and read it before {KEPT} others are asked for"
        raise HTTPException(404, f"no trace of {answer!r}: {hint}")
    return found


async def serve(told: Told, sock: socket.socket) -> None:
    """Until a signal ends it, or its engine dies. Raises JobUserError before the engine starts, what vLLM
    raises after."""
    config = config_of(told)
    latent, why_not = plugin(config)
    check_fits(told, why_not)
    args = namespace(arguments(told, config, latent, cpu=current_platform.is_cpu()))
    set_ulimit()
    engine = open_engine(args)
    try:
        app = await build(engine, told, args, config, why_not)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its old connections bar nobody after it
        ending = await serve_http(
            app,
            sock=sock,
            host=args.host,
            port=args.port,
            log_level=args.uvicorn_log_level,
            log_config=get_uvicorn_log_config(args),
        )
    finally:
        engine.shutdown(timeout=engine.vllm_config.shutdown_timeout)
    await ending


def namespace(given: dict[str, Any]) -> Namespace:
    """What vLLM's command line would have made of these arguments. No key ever stands on one."""
    args: Any = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for name, value in given.items():
        if not hasattr(args, name):
            raise AttributeError(f"vLLM knows no argument {name}")
        setattr(args, name, value)
    return args


def open_engine(args: Namespace) -> LatentLLM:
    """Loads the model, in a process of its own."""
    engine_args = AsyncEngineArgs.from_cli_args(args)
    context = UsageContext.OPENAI_API_SERVER
    vllm_config = engine_args.create_engine_config(usage_context=context)
    engine = LatentLLM.from_vllm_config(vllm_config, usage_context=context)
    assert isinstance(engine, LatentLLM)
    return engine


async def build(
    engine: LatentLLM, told: Told, args: Namespace, config: PretrainedConfig, why_not: str | None
) -> FastAPI:
    """The app of an engine."""
    tokenizer: Any = engine.renderer.tokenizer
    model = engine.model_config
    generation = SimpleNamespace(**model.try_get_generation_config())
    engine.traces = Traces(tokenizer)
    engine.admission = Admission(
        tokenizer,
        None if told.latent is None else LatentSpec.model_validate(told.latent),
        told.carried,
        told.unasked == "on",
        eos_ids(SimpleNamespace(config=config, generation_config=generation), tokenizer),
        model.get_vocab_size(),
        why_not,
    )
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, model)
    app.include_router(router)
    await init_app_state(engine, app.state, args, tasks)
    app.state.latent_about = {
        "latent": None if why_not else told.latent,
        "unasked": told.unasked,
        "why_not": why_not,
        "example": example(tokenizer, told.carried, model.max_model_len),
    }
    return app
