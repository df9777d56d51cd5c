"""Colors, fonts and the style sheet of the page; nothing may be loaded from the network."""

from __future__ import annotations

import gradio as gr

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1120px !important; width: 100% !important; margin: 0 auto !important; }
#models-pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) !important; }
.rehead-header { padding: 1.4rem 0 .4rem; }
.rehead-header h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; margin: 0; }
.rehead-header p { color: var(--body-text-color-subdued); margin: .2rem 0 0; }
.rehead-header a { color: var(--link-text-color); text-decoration: underline; }
.rehead-about { color: var(--body-text-color-subdued); font-size: .85rem; margin: -.5rem 0 0 .2rem; }
.rehead-note { color: var(--body-text-color-subdued); font-size: .85rem; margin-left: .2rem; }
.rehead-report, .rehead-report tr, .rehead-report td, .rehead-report th { border: 0 !important; }
.rehead-report { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
.rehead-wide { overflow-x: auto; }
.rehead-wide td, .rehead-wide th { white-space: nowrap; }
.rehead-report td, .rehead-report th { padding: .25rem 1.1rem .25rem .2rem; text-align: left; font-weight: 400;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.rehead-report th { color: var(--body-text-color-subdued); }
.rehead-problem { background: #fef2f2; color: #991b1b; border: 1px solid #fecaca; border-radius: 8px;
  padding: .7rem .95rem; }
.dark .rehead-problem { background: #450a0a; color: #fecaca; border-color: #7f1d1d; }
.rehead-warning { color: #92400e; background: #fffbeb; border: 1px solid #fde68a; border-radius: 8px;
  padding: .5rem .8rem; margin: .35rem 0; font-size: .9rem; }
.dark .rehead-warning { color: #fde68a; background: #422006; border-color: #78350f; }
.rehead-note ul { margin: .2rem 0 0 1.1rem; list-style: disc; }
progress { appearance: none; vertical-align: middle; width: 12rem; max-width: 60%; height: .6rem;
  border: 0; border-radius: .3rem; overflow: hidden; background: var(--border-color-primary); margin-right: .4rem; }
progress::-webkit-progress-bar { background: var(--border-color-primary); }
progress::-webkit-progress-value { background: var(--color-accent); }
progress::-moz-progress-bar { background: var(--color-accent); }
.dark { --color-accent: #5eead4; }
.dark input[role="combobox"] { color: var(--body-text-color) !important; }
body:not(.dark) .cm-line span { color: inherit !important; }
.dark a.download-link { color: #5eead4; }
@media (max-width: 640px) {
  button[role="tab"] { padding-left: .4rem !important; padding-right: .4rem !important; font-size: .86rem; }
}
table, .virtual-row { font-family: inherit !important; }
.rehead-step { font-size: 1.05rem !important; font-weight: 600; margin: .6rem 0 .2rem .1rem !important; }
.rehead-run { margin: .2rem 0; }
.rehead-figures { font-size: 1.05rem; font-weight: 600; margin: .2rem 0; font-variant-numeric: tabular-nums; }
.rehead-finished b { color: var(--link-text-color); }
.rehead-words { line-height: 1.9; font-size: 1.02rem; padding: .4rem .2rem; }
.rehead-word { border-radius: 4px; padding: .12em .2em; }
.rehead-for { background: color-mix(in srgb, #14b8a6 calc(var(--weight) * 55%), transparent); }
.rehead-against { border-bottom: 3px solid color-mix(in srgb, #ea580c calc(var(--weight) * 100%), transparent);
  border-radius: 0; }
.rehead-cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.rehead-card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .8rem 1rem;
  background: var(--block-background-fill); }
.rehead-card h3 { margin: 0 0 .2rem; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }
.rehead-card ul { margin: .3rem 0 0; padding: 0; list-style: none; font-size: .88rem;
  color: var(--body-text-color-subdued); }
.rehead-figure b { font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.rehead-empty { padding: 1.5rem .4rem; }
.rehead-data meter { width: 8rem; }
.rehead-data summary { cursor: pointer; padding: .3rem .2rem; }
.rehead-answer { scroll-margin-top: .8rem; }
.rehead-question { font-size: 1.12rem; line-height: 1.55; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 22rem; overflow-y: auto; margin: .5rem 0 .9rem; padding: .8rem 1rem; border-radius: 10px;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.rehead-labels { gap: .4rem !important; }
.rehead-labels button { justify-content: flex-start !important; white-space: pre-wrap !important; text-align: left;
  overflow-wrap: anywhere; font-weight: 450; }
kbd { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 0 .3em; font-size: .85em; }
.rehead-scores .bar { height: 8px !important; border-radius: 4px; border: 0; }
.rehead-scores .confidence-set { font-family: inherit !important; font-size: .95rem; }
.rehead-scores dl, .rehead-scores dt, .rehead-scores dd, .rehead-scores .text { font-family: inherit !important; }
"""


def theme() -> gr.themes.Base:
    """Return the theme; its fonts are those of the system, since a web font would be a request to another server."""
    look = gr.themes.Soft(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS
    )
    return look.set(
        # white on teal-500 is too faint to read
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
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
        color_accent="*primary_700",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_700",
        checkbox_border_color_selected="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
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
