"""Links that restore the fields of a tab. Values stand behind the #, so they never reach a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

WRITE = """(...values) => {
  const names = %s, kept = new URLSearchParams([["tab", %s]]);
  names.forEach((name, number) => {
    const value = values[number];
    if (value !== null && value !== undefined && value !== "") kept.set(name, JSON.stringify(value));
  });
  const address = location.origin + location.pathname + "#" + kept;
  history.replaceState(null, "", address);
  if (navigator.clipboard) navigator.clipboard.writeText(address).catch(() => {});
  return {__type__: "update", value: address, visible: true};
}"""

READ = """() => {
  const names = %s, same = {__type__: "update"}, kept = new URLSearchParams(location.hash.slice(1));
  const mine = kept.get("tab") === %s;
  return names.map((name) => {
    if (!mine || !kept.has(name)) return same;
    try { return {__type__: "update", value: JSON.parse(kept.get(name))}; } catch { return same; }
  });
}"""

OPEN = """() => {
  const tab = new URLSearchParams(location.hash.slice(1)).get("tab");
  return %s.includes(tab) ? {__type__: "update", selected: tab} : {__type__: "update"};
}"""


def build(blocks: gr.Blocks, tab: str, fields: Mapping[str, Component]) -> None:
    """Add a button that copies a link, and the event that reads one when the page is opened."""
    names, own = json.dumps(list(fields)), json.dumps(tab)
    with gr.Row():
        button = gr.Button("Copy link", size="sm", scale=0, min_width=120, elem_id=f"{tab}-link")
        link = gr.Textbox(
            visible=False,
            interactive=False,
            label="Link (copied)",
            max_lines=1,
            buttons=["copy"],
            elem_id=f"{tab}-address",
        )
    outputs: list[Any] = list(fields.values())
    button.click(None, outputs, [link], js=WRITE % (names, own), api_name=False)
    blocks.load(None, None, outputs, js=READ % (names, own), api_name=False)


def open_tab(blocks: gr.Blocks, tabs: gr.Tabs, names: list[str]) -> None:
    """Add the event that opens the tab that a link names."""
    blocks.load(None, None, [tabs], js=OPEN % json.dumps(names), api_name=False)
