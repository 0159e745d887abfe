"""The parts of the Google Cloud backend that need no cloud."""
