"""The networks of the profile `full`: an ultralytics detector, EasyOCR's CRAFT and open_clip, run through the
engines."""
