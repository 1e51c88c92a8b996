"""Segmentation of large image archives with Ray Data, on one machine or a cluster.

Requires the extra `batch`.
"""

SHARD_SIZE = 1000
"""Default number of images per shard."""
