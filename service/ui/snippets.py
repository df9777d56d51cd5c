"""The request of a tab as a program: curl, Python or JavaScript."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gradio as gr

from service.ui import label_chips
from service.ui.tab import Page

LANGUAGES = {"curl": "shell", "Python": "python", "JavaScript": "javascript"}
KEY = "YOUR_KEY"


def snippet(language: str, address: str, model: str, text: str, parameters: dict[str, Any], *, has_key: bool) -> str:
    """Return a program that classifies `text`; `parameters` are those of the Hugging Face inference API."""
    body = {"inputs": text} | ({"parameters": parameters} if parameters else {})
    url = f"{address.rstrip('/')}/models/{model}"
    return WRITERS[language](url, model, body, has_key)


def of_model(page: Page, language: str, address: str, model: str | None, text: str, labels: Sequence[str]) -> str:
    """Return a program for a model, with these labels if it is a zero-shot model."""
    store = page.admission.store
    zero_shot = bool(model) and model in store.names() and store.folder(str(model)).is_zero_shot
    parameters = {"candidate_labels": label_chips.described(labels)} if zero_shot else {}
    return snippet(language, address, model or "sentiment", text, parameters, has_key=page.has_key)


def build(
    tab: str, inputs: list[Any], write: Callable[..., str], languages: Mapping[str, str] = MappingProxyType(LANGUAGES)
) -> None:
    """Add a collapsed section with the snippet, rewritten when it is expanded or another language is selected.

    Args:
        write: called with the language, the server's address and the inputs' values.
        languages: name -> language of the syntax highlighting.
    """
    with gr.Accordion("Use via API", open=False, elem_id=f"{tab}-snippet") as section:
        language = gr.Radio(
            list(languages), value=next(iter(languages)), label="Language", show_label=False, elem_id=f"{tab}-language"
        )
        code = gr.Code(language="shell", label="Program", interactive=False, elem_id=f"{tab}-code", wrap_lines=True)

    def show(request: gr.Request, language: str, *values: Any) -> Any:
        value = write(language, str(request.request.base_url), *values)
        return gr.update(value=value, language=languages[language])

    for event in (section.expand, language.change):
        event(show, [language, *inputs], [code], api_name=False, show_progress="hidden")


def _curl(url: str, model: str, body: dict[str, Any], has_key: bool) -> str:
    key = f" \\\n  -H 'Authorization: Bearer {KEY}'" if has_key else ""
    content = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {url}{key} \\\n  -H 'Content-Type: application/json' \\\n  -d {content}"


def _python(url: str, model: str, body: dict[str, Any], has_key: bool) -> str:
    key = f", api_key={KEY!r}" if has_key else ""
    lines = [f"from huggingface_hub import InferenceClient\n\nclient = InferenceClient(model={url!r}{key})"]
    options = dict(body.get("parameters", {}))
    if "candidate_labels" not in options:
        lines.append(f"print(client.text_classification({body['inputs']!r}))")
    else:
        labels = options.pop("candidate_labels")
        arguments = "".join(f",\n    {name}={value!r}" for name, value in options.items())
        lines.append(f"print(client.zero_shot_classification(\n    {body['inputs']!r},\n    {labels!r}{arguments},\n))")
    return "\n".join(lines)


def _javascript(url: str, model: str, body: dict[str, Any], has_key: bool) -> str:
    key = f', "Authorization": "Bearer {KEY}"' if has_key else ""
    content = json.dumps(body, ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return (
        f'const answer = await fetch("{url}", {{\n  method: "POST",\n'
        f'  headers: {{ "Content-Type": "application/json"{key} }},\n'
        f"  body: JSON.stringify({content}),\n}});\nconsole.log(await answer.json());"
    )


WRITERS: dict[str, Callable[[str, str, dict[str, Any], bool], str]] = {
    "curl": _curl,
    "Python": _python,
    "JavaScript": _javascript,
}
