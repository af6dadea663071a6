"""Inference forms of the operators whose own file has no room for them. `ConvOp.inference_forms` says what a form is."""
