"""Segmentation over HTTP: the service (`egeunet serve`) and the client that talks to it."""

from egeunet.serve.client import Client

__all__ = ["Client"]
