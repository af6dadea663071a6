"""Optimise networks for inference: fold normalisation layers, merge parallel convolutions, choose each layer's fastest form."""
