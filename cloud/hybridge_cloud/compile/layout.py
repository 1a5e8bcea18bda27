"""Where things lie in a package that is made here, and what it runs on."""

from __future__ import annotations

FEATURES_FILE = "features.onnx"
MODEL_FILE = "model.onnx"
PROVIDERS = ("CPUExecutionProvider",)
