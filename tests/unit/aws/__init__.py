"""The parts of the AWS backend that need no cloud."""
