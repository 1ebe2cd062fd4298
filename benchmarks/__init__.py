"""What the figures of docs/benchmarks.md come from; every file is a command."""
