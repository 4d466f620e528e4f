"""The operators' HTTP side: a process and a port of its own, never the receiver's."""
