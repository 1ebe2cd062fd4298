"""A run directory from outside: making it, reading its state, archiving what it holds."""
