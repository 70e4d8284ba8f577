"""From rollouts to rows of the loss: log-probs before the update, advantages, what each position counts."""
