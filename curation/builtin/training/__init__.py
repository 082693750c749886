"""How the weights beside this folder were made. Nothing that scores images imports it."""
