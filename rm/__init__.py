"""RecursiveMix: the method, its comparison methods and one training loop (Yang et al., NeurIPS
2022).
"""

NUMERICS = 2
"""Raised whenever a change to `rm` changes what a finished training would have produced; part of
every trial's id.
"""
