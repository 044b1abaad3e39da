"""From the text of a pattern to its syntax tree."""
