"""What a rollout is rewarded for. `Rewards` judges attempts; `register` takes a reward of one's own."""

from __future__ import annotations

from jobs.grade.rewards.judging import Rewards
from jobs.grade.rewards.own import register
from jobs.grade.rewards.protocol import Attempt, Reward, Rewarded

__all__ = ["Attempt", "Reward", "Rewarded", "Rewards", "register"]
