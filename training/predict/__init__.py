"""Fine-tuned models on a person's own photos and videos: inputs → people → views → encoder → heads → files.

inputs.py    what was given, as a list of photos and clips with the names of their results
people.py    boxes of people: from a file, a curated folder, or the detector of the curation wing
models.py    up to four tasks, one encoder pass for those that share an encoder
compose.py   what the heads said of each person, put together in the image's pixels
draw.py      the panel and the overlay
files.py     results on disk
video.py     clips and webcams, frame by frame
run.py       the command
"""
