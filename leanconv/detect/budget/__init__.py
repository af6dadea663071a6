"""From a trained detector to a lean one under a budget: what `leanconv.detect.lean` does."""
