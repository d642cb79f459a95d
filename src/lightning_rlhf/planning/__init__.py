"""Will it fit? A step's memory, planned before anything is loaded."""
