"""A dataset on the page: how it comes, how it is read, its rows, what is wrong with them, what is kept."""
