"""Archives of many photos, segmented on one machine or a cluster with Ray Data.

It needs the extra: pip install 'egeunet[batch]'.
"""

SHARD_SIZE = 1000  # photos of a part, by default
