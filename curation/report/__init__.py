"""The page that people look at after a run, and its figures."""
