"""Work on a bucket alone, with the passphrase, without a vault: import, restore, copy, look, rebuild."""
