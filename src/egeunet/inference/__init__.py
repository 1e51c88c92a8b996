"""Segmentation with numpy, Pillow and ONNX Runtime only; never imports torch."""
