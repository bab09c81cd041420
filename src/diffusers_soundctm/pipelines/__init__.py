"""From a prompt to a waveform: the pipeline, its checks, its loading, and the conditioning per model family."""
