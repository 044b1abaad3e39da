"""Score networks and attention modules over compiled patterns."""

from attncomp.nn.attention import PatternAttention
from attncomp.nn.rotary import rotate
from attncomp.nn.scores import ScoreNetwork, normalise_over_time

__all__ = ["PatternAttention", "ScoreNetwork", "normalise_over_time", "rotate"]
