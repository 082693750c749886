"""Labels by hand: which images are worth looking at, and the page on which they are tagged."""
