"""Lean networks at inference: norms folded, parallel convolutions merged, each layer in the form that is fastest here."""
