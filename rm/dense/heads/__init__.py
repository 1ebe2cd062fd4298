"""Heads: one function each, `name(channels, classes, *, option=default, ...) -> configuration`;
its name is its name in a spec, under `head`.

channels   of the backbone's four maps
classes    of the data set

What it returns is the configuration of a whole OpenMMLab model, written out, so that the recipe
stands here; a test compares each with the stock one of the wheel. The backbone is put in later.
Two literals stand beside it:

TASK      the task that it is a head for
METRICS   names of `rm.metrics.METRICS` that are reported with it, the primary one first
"""
