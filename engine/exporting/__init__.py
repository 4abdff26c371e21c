"""A tuned model as a folder that others load: merged, verified, described."""
