"""What sends a machine's changes to a process server that is another machine than the one where it runs."""
