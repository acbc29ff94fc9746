"""One verb each; no Ray, no click."""
