"""Crash tests for any cloud: the process dies by SIGKILL at each call, before and after its effect."""
