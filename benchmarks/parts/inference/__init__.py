"""Acting at a server beside each collector acting by itself, and what surrounds it: transports, groups of lanes."""
