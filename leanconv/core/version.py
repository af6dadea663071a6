"""The version of leanconv; the package and its files read it here."""

__version__ = "0.2.0"
