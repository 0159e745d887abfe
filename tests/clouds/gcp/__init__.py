"""A Compute Engine that is as strict as the real one, over HTTP, for tests; with buckets and secrets beside it.

Requests and the double's own answers are held against the discovery documents that google-api-python-client ships, so
that neither drifts from the real API's shapes. What the documents do not say is encoded here, with its source:

``disc``      https://compute.googleapis.com/$discovery/rest?version=v1, the document's own texts
``gce/X``     https://cloud.google.com/compute/docs/X
``quota``     https://cloud.google.com/compute/docs/api-rate-limits
``csi``       https://github.com/kubernetes-sigs/gcp-compute-persistent-disk-csi-driver, pkg/common
``seen:X``    the answer of the real API that a public issue quotes: github.com/X

[U] marks what no source says for certain; there the double does what is harder for a client.
"""
