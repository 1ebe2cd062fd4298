"""Ray: the same worker on the same run directories, over a cluster of machines."""
