"""Every printed figure of the four papers, and the same figure counted on the network built here."""
