"""Base models: loading a checkpoint, the embedded nano model, merging adapters."""
