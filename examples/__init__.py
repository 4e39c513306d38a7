"""One small file for each feature, each run through a real platform by `tests/docs`."""
