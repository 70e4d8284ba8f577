"""What can be known of a recipe before anything is queued: see README.md."""
