"""The loop: batches, evaluation, checkpoints, records, and the means that make it lean."""
