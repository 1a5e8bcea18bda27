"""Programs that serve the models with one contender each; they run in that contender's environment."""
