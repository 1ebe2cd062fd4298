"""The methods in anybody's own training loop: `rm.wrap(model)`; see docs/library.md."""
