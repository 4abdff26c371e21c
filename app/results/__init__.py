"""What training came to: verdicts, the words for weights, and what can be taken away."""
