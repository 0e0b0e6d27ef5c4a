"""The page of `stingy try`: what a bundle knows of an image, and what leaves under a policy."""
