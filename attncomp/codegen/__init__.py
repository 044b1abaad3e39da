"""Lowering: from a scheduled graph to a kernel plan, and from a plan to source text."""
