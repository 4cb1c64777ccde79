"""The servers that bench/serving.py measures, each a program of its own. All serve the same ONNX file with ONNX Runtime on one thread."""
