"""Models and predictions by name: a name, a directory or a hub id goes in; a model, its processor or a class comes out.

`by_name` has MMPretrain's functions, `classifier` what all commands share to classify files.
"""
