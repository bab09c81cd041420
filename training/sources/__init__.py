"""Sources of the prepared data set: classes, recordings, rendering and captions."""
