"""Export of trained models to ONNX, and benchmarks of the ways to run them.

The package is not called `export`: importing it would replace the function `egeunet.export`.
"""
