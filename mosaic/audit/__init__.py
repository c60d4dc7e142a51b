"""What the published scores can bear: their noise, the price of choosing on the test part, and what
is left of a difference once both sides are treated alike."""
