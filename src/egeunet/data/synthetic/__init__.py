"""Synthetic dermoscopy images with exact masks."""
