"""The embedded checkpoint and the weight-porting script, installed as `tfdeit.weights`."""
