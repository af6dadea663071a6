"""Lean networks on disk: a plan and plain safetensors, no pickle."""
