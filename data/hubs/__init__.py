"""What is not on this machine yet: hubs, addresses, and the catalogue of what people start from."""
