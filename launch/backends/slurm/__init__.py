"""SLURM from both sides: what its commands say, what was submitted, and what a task does on its
node.
"""
