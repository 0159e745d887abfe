"""Nodes that really run: each in namespaces of its own, with loop devices as its volumes."""
