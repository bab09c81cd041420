"""What training uses, apart from the loops: pure functions and small classes, each one idea of the paper."""
