"""Moves messages from keys to other keys while applications use them: census, rewrap in place, proof, way back."""
