"""Every printed figure of the four papers, beside the same figure counted on the networks built here."""
