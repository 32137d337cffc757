"""The NBD protocol: how a disk is read and written across a process or machine boundary."""
