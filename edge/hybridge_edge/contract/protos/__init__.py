"""The Open Inference Protocol v2: our text of it, and the stubs that scripts/protos makes from that."""
