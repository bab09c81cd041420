"""Numbers of steps that the app, its API and the command line start from."""

FINAL_STEPS = 4  # closest to real audio in docs/results.md
STEERED_STEPS = 8  # of sounds that follow a curve, a recording or their own start while they are made
