"""TensorFlow Serving's REST and gRPC protocols for one model on one machine, to try it and to test clients.

It serves any SavedModel with signatures and knows nothing about DeiT; only the web page expects the signatures of
`tfdeit export --format savedmodel`. Read `models.py`, `batching.py`, `service.py`, then the two front ends.
"""
