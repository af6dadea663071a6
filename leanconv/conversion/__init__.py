"""Conversion of networks: plan, convert, check, and convert back to dense layers."""
