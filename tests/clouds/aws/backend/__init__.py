"""The AWS backend against the double."""
