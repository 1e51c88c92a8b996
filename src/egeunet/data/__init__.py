"""Datasets, their splits and checks, and the arrays that training reads."""
