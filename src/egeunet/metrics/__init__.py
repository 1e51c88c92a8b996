"""Pixel counts, overlap scores and surface distances."""
