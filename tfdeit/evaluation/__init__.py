"""How good a classifier is: batches of images and labels go in, figures and a report come out.

`figures` measures, `state` lets an interrupted evaluation be resumed, and `report` writes tables and charts. Training
uses `figures.evaluate`, the command all three.
"""
