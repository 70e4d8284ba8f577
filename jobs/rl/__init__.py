"""Reinforcement learning: rollouts, their replay and loss, and the way of weights from trainer to engine."""
