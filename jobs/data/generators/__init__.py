"""Problems made on the spot: seeded, solvable by construction, no overlap between splits."""
