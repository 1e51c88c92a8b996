"""From a photo to a mask with numpy, Pillow and ONNX Runtime alone; never torch."""
