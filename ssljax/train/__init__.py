"""Training: optimisers and schedules, the step of one run, the sweep of many, the loop, checkpoints, and the linear probe."""
