"""Rows to exactly the tokens that are trained: templates, masks, cuts, batches, a store on disk."""
