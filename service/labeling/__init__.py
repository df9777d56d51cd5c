"""From unlabeled texts to a model: teachers, refinement of their scores, and the distillation pipeline."""
