"""Batched augmentation of training samples."""
