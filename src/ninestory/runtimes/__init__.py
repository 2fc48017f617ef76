"""How a model's forward runs: llamacpp, torch, onnx, remote. One protocol (protocol.py), one way to get an engine (load.py)."""
