"""Types and functions that all other packages use: specs, methods, operators, counts, records and errors."""
