"""The words everything else uses."""
