"""What a training reads and leaves: labels, stores, runs, evaluations."""
