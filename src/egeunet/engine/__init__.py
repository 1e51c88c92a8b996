"""The engine that runs EGE-UNet without torch, and the kernels of its training, in C.

`hatch_build.py` compiles them when the package is built. Importing this package loads nothing.
"""
