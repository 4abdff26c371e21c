"""How the board looks, and the small pieces of HTML that every tab shares: pills, empty states, errors, help.

Colours are CSS custom properties in static/theme.css, one set for light and one for dark; gradio's own variables point
to them, so nothing is coloured twice. Every text that passes through here is escaped. This module knows no run and no
argument; nothing that it puts on the page asks the internet for anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).parent / "static"

# One word for each state, the same everywhere; its colour is `.tb-pill.tb-<state>` in theme.css.
STATES = ("queued", "running", "done", "failed", "stopped", "lost")

# Token of theme.css -> the variables of gradio that take its colour, in light and in dark.
FILLS = {
    "page": "body_background_fill",
    "text": (
        "body_text_color accordion_text_color table_text_color checkbox_label_text_color "
        "checkbox_label_text_color_selected button_secondary_text_color button_secondary_text_color_hover"
    ),
    "muted": "body_text_color_subdued block_label_text_color block_info_text_color input_placeholder_color",
    "card": (
        "background_fill_primary block_background_fill block_label_background_fill panel_background_fill "
        "table_even_background_fill table_odd_background_fill checkbox_label_background_fill "
        "button_secondary_background_fill button_cancel_background_fill"
    ),
    "well": (
        "background_fill_secondary code_background_fill checkbox_label_background_fill_hover "
        "button_secondary_background_fill_hover"
    ),
    "line": (
        "border_color_primary border_color_accent_subdued block_border_color block_label_border_color "
        "panel_border_color table_border_color checkbox_label_border_color"
    ),
    "accent": (
        "border_color_accent link_text_color link_text_color_active link_text_color_hover link_text_color_visited "
        "checkbox_background_color_selected checkbox_border_color_focus checkbox_border_color_hover "
        "checkbox_border_color_selected input_border_color_focus loader_color slider_color"
    ),
    "accent-soft": "color_accent_soft table_row_focus checkbox_label_background_fill_selected stat_background_fill",
    "label": "block_title_text_color",
    "field": (
        "checkbox_background_color checkbox_background_color_focus checkbox_background_color_hover "
        "input_background_fill input_background_fill_focus input_background_fill_hover"
    ),
    "edge": "checkbox_border_color checkbox_label_border_color_hover input_border_color button_secondary_border_color",
    "danger-soft": "error_background_fill button_cancel_background_fill_hover",
    "danger": (
        "error_border_color error_text_color error_icon_color button_cancel_border_color "
        "button_cancel_border_color_hover button_cancel_text_color button_cancel_text_color_hover"
    ),
    "edge-strong": "input_border_color_hover button_secondary_border_color_hover",
    "accent-fill": "button_primary_background_fill button_primary_border_color",
    "accent-fill-hover": "button_primary_background_fill_hover button_primary_border_color_hover",
    "on-accent": "button_primary_text_color button_primary_text_color_hover",
}

# Value -> the variables of gradio that take it: sizes, weights and shadows.
SHAPES = {
    "var(--tb-accent)": "color_accent",
    "none": (
        "shadow_drop block_shadow block_shadow_dark input_shadow input_shadow_dark button_transform_hover "
        "button_transform_active checkbox_label_shadow checkbox_shadow"
    ),
    "var(--tb-shadow)": "shadow_drop_lg",
    "0": "shadow_spread",
    "0 0 0 3px var(--tb-ring)": "input_shadow_focus input_shadow_focus_dark",
    "1px": (
        "input_border_width input_border_width_dark block_border_width block_border_width_dark "
        "button_border_width button_border_width_dark checkbox_label_border_width "
        "checkbox_label_border_width_dark"
    ),
    "7px 10px": "input_padding",
    "6px": "input_radius button_large_radius button_small_radius button_medium_radius",
    "14px": (
        "input_text_size button_large_text_size button_medium_text_size checkbox_label_text_size "
        "section_header_text_size body_text_size prose_text_size chatbot_text_size"
    ),
    "13px": "block_title_text_size block_label_text_size button_small_text_size",
    "500": "block_title_text_weight button_medium_text_weight button_small_text_weight",
    "8px": "block_radius container_radius",
    "8px 12px": "block_padding",
    "12px": "layout_gap",
    "0px": "form_gap_width",
    "8px 18px": "button_large_padding",
    "6px 14px": "button_medium_padding",
    "4px 10px": "button_small_padding",
    "550": "button_large_text_weight",
    "background-color .12s, border-color .12s": "button_transition",
    "5px 11px": "checkbox_label_padding",
    "4px": "checkbox_border_radius",
    "600": "section_header_text_weight",
}


@dataclass(frozen=True)
class Help:
    """What the (i) behind a field's label says. `usual` is a range in the field's own unit, or empty."""

    what: str
    when: str = ""
    usual: str = ""


def launch_options(help_of: Mapping[str, Help] | None = None) -> dict[str, Any]:
    """For `demo.launch(**launch_options(...))`. `help_of` maps a component's `elem_id` to its help."""
    helps = {elem_id: asdict(one) for elem_id, one in (help_of or {}).items()}
    # "</" would end the script element early, whatever the text around it says.
    data = json.dumps(helps, ensure_ascii=False).replace("</", "<\\/")
    scripts = "\n".join(f"<script>{path.read_text()}</script>" for path in sorted(STATIC.glob("*.js")))
    return {
        "theme": theme(),
        "css_paths": sorted(STATIC.glob("*.css")),
        "head": f'<script type="application/json" id="tb-help">{data}</script>\n{scripts}',
        "favicon_path": str(STATIC / "favicon.svg"),
        "footer_links": [],
    }


def theme() -> gr.themes.Base:
    """Gradio's variables, pointed at the tokens of theme.css. System fonts only."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "Arial", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    look = gr.themes.Base(
        font=sans, font_mono=mono, spacing_size="sm", radius_size="md", text_size="md", primary_hue="blue"
    )
    colours = {name: f"var(--tb-{token})" for token, names in FILLS.items() for name in names.split()}
    dark = {f"{name}_dark": value for name, value in colours.items() if hasattr(look, f"{name}_dark")}
    shapes = {name: value for value, names in SHAPES.items() for name in names.split()}
    return look.set(**colours, **dark, **shapes)


def pill(state: str) -> str:
    """A run's state: one word, one colour."""
    known = state if state in STATES else "queued"
    return f'<span class="tb-pill tb-{known}">{escape(state)}</span>'


def empty(title: str, what_to_do_next: str) -> str:
    """What an empty place is for, and the one thing to do next."""
    return f'<div class="tb-empty"><strong>{escape(title)}</strong><p>{escape(what_to_do_next)}</p></div>'


def sentence_error(text: str, hint: str = "") -> str:
    """What is wrong, and what to do about it (a BoardError's two parts)."""
    return _message("error", "alert", text, hint)


def sentence_warning(text: str, hint: str = "") -> str:
    """Something that is off but stops nothing."""
    return _message("warning", "status", text, hint)


def sentence_done(text: str) -> str:
    """What came of it."""
    return _message("done", "status", text, "")


def _message(kind: str, role: str, text: str, hint: str) -> str:
    way_out = "".join(f"<p>{escape(line)}</p>" for line in hint.splitlines())  # several problems: a line for each
    return f'<div class="tb-message tb-{kind}" role="{role}"><strong>{escape(text)}</strong>{way_out}</div>'
