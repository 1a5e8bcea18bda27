"""What serving.py and hotswap.py are made of: models, contenders in environments of their own, load, tables."""
