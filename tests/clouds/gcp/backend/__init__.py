"""The Google Cloud backend against the double."""
