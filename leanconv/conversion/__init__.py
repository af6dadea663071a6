"""Plan a conversion, carry it out, check it, and take it back."""
