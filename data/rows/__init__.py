"""What a record means: formats, columns, conversations, pictures; one canonical row for all of them."""
