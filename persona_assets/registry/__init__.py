"""Adapters of others: references to registries, what they hold, and the gate that everything pulled must pass."""
