"""Reinforcement learning; so far the way of weights from trainer to engine."""
