"""Training machinery shared by the scripts in `training/`: arguments, the loop, checkpoints, EMA, validation, upload."""
