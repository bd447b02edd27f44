"""Using a model: prompts, generation, classification, evaluation."""
