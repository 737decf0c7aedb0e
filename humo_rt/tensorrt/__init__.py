"""The DiT outside PyTorch: ONNX export, ONNX Runtime sessions and TensorRT engines, called like the module.

Imported on demand; nothing in the rest of the package needs it.
"""
