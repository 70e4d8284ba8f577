"""The worker of vLLM on GPUs, with latent steps."""

from vllm.v1.worker.gpu_worker import Worker

from jobs.generate.vllm_plugin import register
from jobs.generate.vllm_plugin.v1 import LatentWorker

register()


class LatentGPUWorker(LatentWorker, Worker):
    """`worker_cls` of vLLM's engine arguments."""
