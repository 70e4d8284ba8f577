"""What every job needs while it runs: reports, signals, checkpoints, collectives. Knows no method."""
