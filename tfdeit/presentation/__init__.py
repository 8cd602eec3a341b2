"""How tfdeit speaks and draws: text on a terminal, progress bars, hints at misspelt names, charts and grids of images.

Plain values go in; lines on stdout and stderr, or pictures, come out. Everybody may use it; it knows nothing of models.
"""
