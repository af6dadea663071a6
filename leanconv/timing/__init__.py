"""Measure latency and memory, in several runtimes, on a named machine."""
