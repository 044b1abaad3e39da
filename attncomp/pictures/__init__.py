"""What a pattern attends and what its kernels visit: as data, and drawn with matplotlib."""
