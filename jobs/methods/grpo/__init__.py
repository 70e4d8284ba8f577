"""The method `grpo`."""

from jobs.methods.grpo.method import Grpo

__all__ = ["Grpo"]
