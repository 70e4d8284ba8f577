"""The worker of a CPU build of vLLM, with latent steps."""

from vllm.v1.worker.cpu_worker import CPUWorker

from jobs.generate.vllm_plugin import register
from jobs.generate.vllm_plugin.v1 import LatentWorker

register()


class LatentCPUWorker(LatentWorker, CPUWorker):
    """`worker_cls` of vLLM's engine arguments."""
