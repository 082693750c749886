"""What a label is: keypoint sets, class lists, how dense labels are stored, and packing them into shards."""
