"""Where a training step's images come from: the device's memory, image files, or shards of
them.
"""
