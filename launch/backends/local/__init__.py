"""This machine: a queue of run directories over warm worker processes."""
