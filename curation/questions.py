"""The questions that can be asked, in the order they are asked, and the columns each one fills."""

COLUMNS = {
    "fingerprint": ("phash",),
    "quality": ("blur", "exposure"),
    "people": ("person_boxes",),
    "text": ("text_area", "text_area_outside", "text_boxes"),
    "watermark": ("pwatermark",),
    "style": ("partistic", "punnatural"),
    "concepts": (),  # one column p<name> for each of the recipe's own concepts
    "safety": ("punsafe",),
    "embedding": (),  # kept in embeddings/, not in the tables
}
SCORERS = tuple(COLUMNS)

STAGES = {
    "builtin": (("fingerprint", "quality"), ("people",), ("safety",), ("text", "watermark", "style")),
    "full": (
        ("fingerprint", "quality"),
        ("people",),
        ("watermark", "style", "concepts", "embedding"),
        ("safety",),
        ("text",),
    ),
}
"""Per profile, what a lazy run asks at a time: cheap first, what shares a network together, people before text."""
