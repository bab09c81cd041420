"""Where the sounds of the prepared data set come from."""
