"""Go's template language, as far as Ollama's prompt templates need it; the expected texts are Go's own (1.19)."""

from __future__ import annotations

import pytest

from pa_lite.sharing.go_templates import GoMessage, collate, render_go

TALK = [GoMessage("system", "S"), GoMessage("user", "a\n\nb"), GoMessage("assistant", " c "), GoMessage("user", "d")]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {{- if .System }}\n x {{ .System -}} \n y{{ end }} z", "a\n x Sy z"),
        ("{{ range .Messages }}<{{ .Role }}>{{ end }}", "<system><user><assistant><user>"),
        ("{{ range $m := .Messages }}{{ $m.Content }}|{{ end }}", "S|a\n\nb| c |d|"),
        ('{{ range $i, $m := .Messages }}{{ if eq .Role "user" "system" }}{{ $i }}{{ else }}-{{ end }}{{ end }}',
         "01-3"),
        ('{{ range .Messages }}{{ if eq .Role "user" }}U{{ else if ne .Role "system" }}A{{ else }}S{{ end }}{{ end }}',
         "SUAU"),
        ("{{ range $i, $m := .Messages }}{{ if and $.System (le $i 1) }}{{ $.System }}{{ end }}{{ end }}", "SS"),
        ("{{ range $i, $m := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}{{ .Content }}{{ end }}{{ end }}",
         "d"),
        ("{{ if or .None .System }}x{{ end }}{{ if not .System }}y{{ end }}{{ len .Messages }}", "x4"),
        ("{{- /**/ -}}", None),
        ("{{ .System | printf }}", None),
        ("{{ upper .System }}", None),
        ("{{ if .System }}", None),
        ("{{ end }}", None),
        ("{{ }}", None),
    ],
)  # fmt: skip
def test_templates_are_rendered_as_by_go(template: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"known|block"):
            render_go(template, TALK)
    else:
        assert render_go(template, TALK) == expected


def test_neighbours_of_the_same_role_are_joined_as_by_ollama() -> None:
    talk = [GoMessage("system", "a"), GoMessage("system", "b"), GoMessage("user", "c"), GoMessage("system", "d")]
    assert collate(talk) == (
        "a\n\nb\n\nd", [GoMessage("system", "a\n\nb"), GoMessage("user", "c"), GoMessage("system", "d")],
    )  # fmt: skip
