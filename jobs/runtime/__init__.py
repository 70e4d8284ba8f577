"""What every job needs while it runs: reports, signals, checkpoints, collectives, failures. Knows no method."""
