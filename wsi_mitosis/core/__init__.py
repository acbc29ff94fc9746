"""Pure computation: no torch, no Ray, no click, no paths."""
