"""Hybridge in the account, or on a laptop: train, compile, publish, deploy, retrain."""
