"""Inference forms of the larger operators. `ConvOp.inference_forms` explains what a form is."""
