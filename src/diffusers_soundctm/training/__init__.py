"""Training machinery shared by the scripts: arguments, the loop, checkpoints, EMA, validation, upload."""
