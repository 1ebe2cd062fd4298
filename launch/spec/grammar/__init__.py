"""How a spec is read from YAML: every mistake noted at its place, all of them at once."""
