"""The commands, one file each. What a command needs, it imports when it runs: `--help` waits for nothing."""
