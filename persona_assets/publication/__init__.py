"""Publishing a study: bundles of its products, the registries they go to, and the proof that they arrived."""
