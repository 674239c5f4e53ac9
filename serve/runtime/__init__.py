"""A running system: started on this machine, or joined."""
