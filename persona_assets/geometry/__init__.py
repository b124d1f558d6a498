"""Where personas lie in the base model's hidden states: centroids and their cosines."""
