"""What `attncomp-inspect` shows: the stages of a compilation, kernel reports, gate matrices."""
