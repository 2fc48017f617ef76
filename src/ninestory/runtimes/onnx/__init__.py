"""Sentence encoders and rerankers by ONNX Runtime: `engine` opens them, `plan` counts their memory."""
