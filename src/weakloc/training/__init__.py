"""Tags to a trained run: the engine, its checkpoints and the feature cache."""
