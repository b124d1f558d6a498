"""The continuous outcome: how likely the marker is at the end of a stored reply, without drawing anything."""
