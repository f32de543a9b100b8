"""Training: preflight checks, trainer, schedules, checkpoints and logging."""
