"""Drawing completions: the engine interface, its transformers implementation, sampling, marker detection."""
