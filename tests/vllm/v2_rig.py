"""vLLM's V2 model runner on a CPU: Triton's interpreter takes its kernels. Slow, and for tests alone.

Imported before vLLM; does nothing unless LATENTCTL_TEST_RUNNER is v2.
"""

import os
from typing import Any

RUNNER = os.environ.get("LATENTCTL_TEST_RUNNER", "v1")

if RUNNER == "v2":
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

    import triton.backends

    class _Driver:
        @staticmethod
        def is_active() -> bool:
            return True

    backend: Any = type("Backend", (), {"driver": _Driver, "compiler": None})()
    triton.backends.backends["cpu"] = backend
