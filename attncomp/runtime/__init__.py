"""Run time: the cache of generated sources, their loading, and the operators around them."""
