"""The page, put together.

Knows: which tabs there are, how the page looks, that it must not ask the network for anything.
Does not know: what happens in a tab.
"""

from __future__ import annotations

import gradio as gr

from service.desk import Desk
from service.ui.tabs import sentiment, topics

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

HEADER = """
<div class="rehead-header">
  <h1>rehead</h1>
  <p>Text classifiers, running on this machine. The same answers come from the <a href="/docs">API</a></p>
</div>
"""

CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.rehead-header { padding: 1.4rem 0 .4rem; }
.rehead-header h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; margin: 0; }
.rehead-header p { color: var(--body-text-color-subdued); margin: .2rem 0 0; }
.rehead-header a { color: var(--link-text-color); text-decoration: underline; }
.rehead-about { color: var(--body-text-color-subdued); font-size: .85rem; margin: -.5rem 0 0 .2rem; }
.rehead-note { color: var(--body-text-color-subdued); font-size: .85rem; margin-left: .2rem; }
.rehead-report, .rehead-report tr, .rehead-report td, .rehead-report th { border: 0 !important; }
.rehead-report { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
.rehead-report td, .rehead-report th { padding: .25rem 1.1rem .25rem .2rem; text-align: left; font-weight: 400;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.rehead-report th { color: var(--body-text-color-subdued); }
.rehead-problem { background: #fef2f2; color: #991b1b; border: 1px solid #fecaca; border-radius: 8px;
  padding: .7rem .95rem; }
.dark .rehead-problem { background: #450a0a; color: #fecaca; border-color: #7f1d1d; }
.rehead-scores .bar { height: 8px !important; border-radius: 4px; border: 0; }
.rehead-scores .confidence-set { font-family: inherit !important; font-size: .95rem; }
.rehead-scores dl, .rehead-scores dt, .rehead-scores dd, .rehead-scores .text { font-family: inherit !important; }
"""


def build(desk: Desk) -> gr.Blocks:
    """The page itself."""
    with gr.Blocks(title="rehead", analytics_enabled=False) as page:
        gr.HTML(HEADER)
        for title, tab in TABS.items():
            with gr.Tab(title):
                tab.build(page, desk)
    return page


def theme() -> gr.themes.Base:
    """Quiet colours, and fonts that every system has: a font from elsewhere would be a request to elsewhere."""
    look = gr.themes.Soft(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS
    )
    return look.set(
        # white on teal-500 is too faint to read
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_padding="0",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        stat_background_fill="*primary_600",
        stat_background_fill_dark="*primary_500",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_shadow="none",
        checkbox_border_color="*neutral_400",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_700",
    )


TABS = {
    "Sentiment": sentiment,
    "Topics": topics,
}
