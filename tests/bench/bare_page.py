"""The smallest gradio page, to compare the board with: `python -m tests.bench.bare_page PORT`."""

from __future__ import annotations

import sys

import gradio as gr

with gr.Blocks(analytics_enabled=False) as page:
    gr.Markdown("Nothing but a line of text.")

page.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True)
