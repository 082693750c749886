"""Pictures of people made of round cones, with exact keypoints, parts, depth and normals: to test and to learn with."""
