"""What the README's speed figures come from; every file is a command."""
