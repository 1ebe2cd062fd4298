"""What a trial leaves in its run directory: journal, checkpoints, weights, provenance."""
