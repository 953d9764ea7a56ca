"""Where and when: commands, configuration, placement, teams, the training loop, checkpoints, recovery."""
