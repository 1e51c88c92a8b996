"""Scores with intervals, failure detection, robustness and reports of trained models."""
