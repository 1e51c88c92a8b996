"""Reproduction of the paper and the reports about this repository's own experiments."""
