"""Save and load lean networks: a plan and the weights as safetensors, without pickle."""
