"""Training by recipe: data, a model and a recipe go in; a directory with checkpoints and a model comes out.

`run.train` does all of it, given names. To train with Keras' `fit`, combine `losses`, `teacher`, `tasks` and `learner`.
"""
