"""The intermediate representation of attention patterns, its passes and its oracle."""
