"""A tree of arguments as a form, and a form as arguments. The only module that knows widgets.

    form = Form(TrainArgs, "train", offered={"models": [...]})
    form.field("model.path")                     # makes the component where it is called
    form.fields("optim.learning_rate", "steps.epochs")
    form.more()                                  # all that is left, one accordion a section
    held = form.gathered()                       # one text for all that they hold: the input of every event
    content = form.content(form.values(text))    # nested and raw, for engine.contract.text.checked

Component ids are `<name>-<path with dashes>`: `train-optim-learning_rate`; those of a variant name it:
`train-method-lora-rank`. What changes while somebody types (marks, `auto` values, counts of changes, the variant in
sight) goes through one channel that static/form.js applies, so that no component is redrawn under the cursor.
A number is typed into a text box: a number box hides nonsense as emptiness, and emptiness means `auto`.

An event has one input and not one for each field: at every word from the server gradio looks up each input of the
event, and of all events before it, from the root of the page on: a cost that grows with the square of the form.
It knows no argument by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from app import chips, naming, typed
from app.board import QUIET
from app.theme import Help, sentence_error
from engine.contract import text
from engine.contract.errors import BoardError, Problem
from engine.contract.fields import AUTO, Spec, walk
from engine.contract.own import Own
from engine.contract.root import Args

PLAIN = gr.InputHTMLAttributes(spellcheck=False, autocomplete="off", autocorrect="off", autocapitalize="off")
SWITCH = {"on": True, "off": False}
SEGMENTS = 5  # choices that stand in one unbroken row; more of them may take several


class Form:
    """The components of one tree of arguments. Build it inside the page, in any order, each field once."""

    def __init__(
        self, root: type[Args], name: str, offered: Mapping[str, Sequence[str]], decided: Args | None = None,
        lacking: Callable[[str, str], str] | None = None,
    ) -> None:  # fmt: skip
        """offered: the lists that `choices_from` names; decided: arguments that say what `auto` comes to here.

        lacking(path, choice): why a choice cannot be made on this machine, in a few words, or nothing.
        """
        self.root = root
        self._decided = decided.model_dump(mode="json") if decided else {}
        self._lacking = lacking or (lambda path, choice: "")
        self.name = name
        self.offered = dict(offered)
        self.specs = {_key(spec): spec for spec in walk(root)}
        self.components: dict[tuple[str, str], gr.components.Component] = {}
        self.accordions: dict[str, list[Spec]] = {}
        self.titles = naming.titles(root)
        self.channel = gr.HTML(html_template="", js_on_load="tuneboard.form(element, props, watch)", padding=False,
                               elem_id=f"{name}-channel", elem_classes="tb-channel")  # fmt: skip
        self.held = gr.Textbox("", max_lines=1, elem_id=f"{name}-held", elem_classes="tb-channel")

    # Building

    def field(self, path: str, variant: str = "", **options: Any) -> gr.components.Component:
        """The component of one argument, made here."""
        spec = self.specs[path, variant]
        component = self._widget(spec, {"elem_id": self.id(spec), "label": _label(spec), **options})
        self.components[_key(spec)] = component
        return component

    def fields(self, *paths: str) -> None:
        """A row of fields. A union's name (`method`) stands for the basic fields of whichever variant is chosen."""
        with gr.Row(elem_classes="tb-row"):
            for path in paths:
                if (path, "") in self.specs:
                    self.field(path)
                else:
                    for spec in filter(self._stands_in_sight, self._of_union(path)):
                        self.field(spec.path, spec.variant, elem_classes=[*self._variant_classes(spec), *_wide(spec)])

    def more(self, *, leave_out: Iterable[str] = (), last: str = "Other") -> None:
        """One closed accordion a section, with every argument that has no component yet, but for `leave_out`."""
        left: dict[tuple[str, str, str], list[Spec]] = {}
        for spec in self.specs.values():
            if _key(spec) not in self.components and spec.path not in leave_out:
                left.setdefault((spec.section, spec.variant, spec.path.rpartition(".")[0]), []).append(spec)
        for (title, variant, path), found in sorted(left.items(), key=lambda one: not one[0][0]):  # no title: last
            elem_id = f"{self.name}-more-{'-'.join(filter(None, (path, variant))) or 'other'}"
            classes = ["tb-more", *(self._variant_classes(found[0]) if variant else [])]
            self.accordions[elem_id] = found
            with gr.Accordion(title or last, open=False, elem_id=elem_id, elem_classes=classes):
                with gr.Row(elem_classes="tb-row"):
                    for spec in found:
                        self.field(spec.path, spec.variant, elem_classes=_wide(spec))

    def gathered(self) -> gr.Textbox:
        """The one component that holds what all the others hold, as text for `values`; call it once all are made.

        The browser writes it, a section at a time, at each change of a field, and before any other event that such a
        change brings and that is connected after this call.
        """
        parts: dict[tuple[str, str], dict[int, gr.components.Component]] = {}
        for place, (path, variant) in enumerate(self._keys):
            parts.setdefault((path.rpartition(".")[0], variant), {})[place] = self.components[path, variant]
        for part in parts.values():
            fields = list(part.values())
            js = f"(...values) => tuneboard.held({json.dumps(self.name)}, {list(part)}, values)"
            gr.on([field.change for field in fields], None, fields, self.held, js=js, **QUIET)
        return self.held

    def id(self, spec: Spec) -> str:
        return component_id(self.name, spec)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """Every component, in the order of the arguments: the outputs of `shown`."""
        return [self.components[key] for key in self._keys]

    @property
    def _keys(self) -> list[tuple[str, str]]:
        return [key for key in self.specs if key in self.components]

    @property
    def dropdowns(self) -> list[gr.components.Component]:
        """The dropdowns that say what `auto` comes to: the outputs of `relabelled`."""
        return [self.components[key] for key in self._keys if self._says_auto(self.specs[key])]

    def relabelled(self, decided: Args | None) -> Any:
        content = decided.model_dump(mode="json") if decided else {}
        specs = [self.specs[key] for key in self._keys if self._says_auto(self.specs[key])]
        found = [gr.Dropdown(self.choices(spec, text.at(content, spec.path))) for spec in specs]
        return found[0] if len(found) == 1 else found

    def _says_auto(self, spec: Spec) -> bool:
        return spec.auto and (bool(spec.choices) or spec.type == "bool")

    @staticmethod
    def help_of(root: type[Args], name: str) -> dict[str, Help]:
        """What the (i) of each field says, by component id."""
        return {component_id(name, spec): naming.help(root, spec) for spec in walk(root)}

    def _of_union(self, path: str) -> list[Spec]:
        return [spec for spec in self.specs.values() if spec.variant and spec.union == path]

    def _stands_in_sight(self, spec: Spec) -> bool:
        """Whether it is a basic field, or a setting of one name that a basic field may hold."""
        return spec.basic or bool(spec.only) and self.specs[spec.only.rpartition(".")[0], spec.variant].basic

    def _variant_classes(self, spec: Spec) -> list[str]:
        if spec.only:
            return ["tb-away"]  # until `news` says otherwise
        shown = self.specs[f"{spec.union}.kind", ""].default == spec.variant
        return [
            f"{self.name}-variant-{spec.union}",
            f"{self.name}-variant-{spec.union}-{spec.variant}",
            *([] if shown else ["tb-away"]),
        ]

    def _widget(self, spec: Spec, options: dict[str, Any]) -> gr.components.Component:
        value = self.raw(spec, spec.default)
        if spec.path.endswith(".kind") and not spec.variant:
            options["elem_classes"] = ["tb-segmented", *(["tb-many"] if len(spec.choices) > SEGMENTS else [])]
            return gr.Radio(
                [(self.titles.get((spec.path, name), name), name) for name in spec.choices], value=value, **options
            )
        if spec.type == "bool" and not spec.auto:
            return gr.Checkbox(value=value, **options)
        if spec.choices or spec.type == "bool":
            return gr.Dropdown(self.choices(spec, text.at(self._decided, spec.path)), value=value, **options)
        if spec.choices_from:
            offered = list(self.offered.get(spec.choices_from, ()))
            return gr.Dropdown(
                offered, value=value, multiselect=spec.type == "list", allow_custom_value=True, **options
            )
        if spec.type in ("list", "map"):
            hint = "name=value, one a line" if spec.type == "map" else "one a line"
            return gr.Textbox(value=value, lines=max(2, spec.lines), placeholder=hint, html_attributes=PLAIN, **options)
        return gr.Textbox(value=value, lines=spec.lines, max_lines=max(1, spec.lines), html_attributes=PLAIN, **options)

    def choices(self, spec: Spec, resolved: Any = None) -> list[tuple[str, str]]:
        """The choices of a dropdown, as (shown, value): `auto` says what it comes to when that is known, and a choice
        that cannot be made here why not."""
        names = (*([AUTO] if spec.auto and AUTO not in spec.choices else []), *(spec.choices or SWITCH))
        known = self.raw(spec, resolved) if resolved not in (None, AUTO) else ""
        beside = {name: self._lacking(spec.path, name) for name in spec.choices} | ({AUTO: known} if known else {})
        return [(f"{name} ({beside[name]})" if beside.get(name) else name, name) for name in names]

    # Values

    def raw(self, spec: Spec, value: Any) -> Any:
        """An argument as its component holds it."""
        if spec.type == "bool":
            return value if not spec.auto else AUTO if value == AUTO else "on" if value else "off"
        if spec.type in ("choice",) or spec.choices_from:
            return list(value) if spec.type == "list" else value
        if spec.type == "list":
            return "\n".join(value)
        if spec.type == "map":
            kept = not spec.known
            return "\n".join(
                f"{name}={item if spec.texts else typed.scalar(item, kept=kept)}" for name, item in value.items()
            )
        if value is None or (spec.auto and value == AUTO):
            return ""
        return typed.number(value) if isinstance(value, float) else str(value)

    def values(self, held: str) -> list[Any]:
        """What each of `inputs` holds, from the text of `gathered`, which leaves out what nobody has touched."""
        changed = json.loads(held or "{}")
        return [changed.get(str(place), self.raw(self.specs[key], self.specs[key].default))
                for place, key in enumerate(self._keys)]  # fmt: skip

    def content(self, values: Sequence[Any]) -> dict[str, Any]:
        """What the components hold, nested, for the contract to check; fields of variants not chosen are left out."""
        held = dict(zip(self._keys, values, strict=True))
        content: dict[str, Any] = {}
        for (path, variant), value in held.items():
            spec = self.specs[path, variant]
            if not self._is_chosen(spec, held):
                continue
            section, _, name = path.rpartition(".")
            inner = content
            for part in section.split(".") if section else ():
                inner = inner.setdefault(part, {})
            inner[name] = self._read(spec, value)
        return content

    def _read(self, spec: Spec, value: Any) -> Any:
        if spec.type == "bool":
            return SWITCH.get(value, value)
        if spec.choices_from or spec.type == "choice":
            return value if value is not None else [] if spec.type == "list" else ""
        said = str(value or "").strip()
        if spec.type == "list":
            return [line.strip() for line in said.splitlines() if line.strip()]
        if spec.type == "map":
            return typed.pairs(said, plain=spec.texts)
        if spec.type == "text":
            return str(value or "") if spec.lines > 1 else said
        if not said:
            return AUTO if spec.auto else None if spec.optional else ""
        return said

    def shown(self, args: Args) -> list[Any]:
        """The values of `inputs` that show `args`. Fields of variants that are not chosen keep their default."""
        content = args.model_dump(mode="json")
        values = []
        for path, variant in self._keys:
            spec = self.specs[path, variant]
            here = not variant or text.at(content, f"{spec.union}.kind") == variant
            values.append(self.raw(spec, text.at(content, path) if here else spec.default))
        return values

    def checked(self, values: Sequence[Any]) -> tuple[Any, list[Problem]]:
        """The arguments, or None and every problem."""
        return text.checked(self.root, self.content(values))

    def news(
        self, values: Sequence[Any], problems: Sequence[Problem], resolved: Args | None = None,
        hints: Mapping[str, str] | None = None, away: Mapping[str, bool] | None = None,
    ) -> str:  # fmt: skip
        """What the channel tells the page: wrong fields, what `auto` comes to, counts of changes, variants in sight,
        the names that maps can hold, and settings of names that they do not hold.

        hints: further placeholders, away: fields and sections to hide or show; both by path.
        """
        held = dict(zip(self._keys, values, strict=True))
        decided = resolved.model_dump(mode="json") if resolved else {}
        wrong, auto, changed = {}, {self.id(self.specs[path, ""]): hint for path, hint in (hints or {}).items()}, {}
        for problem in problems:
            if spec := self._where(problem.path, held):
                wrong[self.id(spec)] = self.plain(problem.text, values)
        for key in self._keys:
            spec = self.specs[key]
            value = text.at(decided, spec.path)
            if spec.auto and spec.type in ("int", "float"):
                auto[self.id(spec)] = AUTO if value in (None, AUTO) else f"auto: {self.raw(spec, value)}"
        names = self._names(held)
        auto |= {elem_id: chips.hint(known) for elem_id, known in names.items()}
        for elem_id, specs in self.accordions.items():
            count = sum(held[_key(spec)] != self.raw(spec, spec.default) for spec in specs)
            mend = sum(self.id(spec) in wrong for spec in specs)
            changed[elem_id] = f"{mend} to mend" if mend else f"{count} changed" if count else ""
        settings = [spec for spec in map(self.specs.__getitem__, held) if spec.only]
        said = {"name": self.name, "wrong": wrong, "auto": auto, "changed": changed, "kinds": self._kinds(values),
                "away": {self._place(path): hide for path, hide in (away or {}).items()},
                "idle": {(id := self.id(spec)): id not in wrong and not self._applies(spec, held) for spec in settings},
                "chips": {elem_id: chips.row(known) for elem_id, known in names.items()}}  # fmt: skip
        return json.dumps(said, ensure_ascii=False)

    def _names(self, held: Mapping[tuple[str, str], Any]) -> dict[str, Mapping[str, Own]]:
        """The names that each map in sight may hold now, by its element; of maps whose names are known."""
        found = [self.specs[key] for key in held if self.specs[key].known]
        return {self.id(spec): spec.names(held.get((spec.by, spec.variant), "")) for spec in found
                if self._is_chosen(spec, held)}  # fmt: skip

    def _applies(self, spec: Spec, held: Mapping[tuple[str, str], Any]) -> bool:
        """Whether the map that a field belongs to holds the name that it is a setting of."""
        above, _, name = spec.only.rpartition(".")
        return self._is_chosen(spec, held) and name in typed.names(held.get((above, spec.variant)) or "")

    @staticmethod
    def _is_chosen(spec: Spec, held: Mapping[tuple[str, str], Any]) -> bool:
        return not spec.variant or held.get((f"{spec.union}.kind", "")) == spec.variant

    def _place(self, path: str) -> str:
        """The element of a field, or of the accordion that holds a section."""
        return self.id(self.specs[path, ""]) if (path, "") in self.specs else f"{self.name}-more-{path}"

    # Sentences

    def label(self, problem: Problem, values: Sequence[Any]) -> str:
        """What the field of a problem is called on screen; its path where it has none."""
        spec = self._where(problem.path, dict(zip(self._keys, values, strict=True)))
        if spec is None or "." not in spec.path:
            return spec.label if spec else problem.path
        found = naming.named(self.root, spec.path, self._kinds(values), problem.path[len(spec.path) + 1 :])
        return f"{spec.label}{found.place}"

    def plain(self, sentence: str, values: Sequence[Any] | None = None) -> str:
        """A sentence of the contract, with fields by their labels."""
        return naming.plain(self.root, sentence, self._kinds(values) if values else {})

    def refusal(self, problem: BoardError, values: Sequence[Any] | None = None) -> str:
        """What went wrong, as HTML, with fields by their labels."""
        return sentence_error(self.plain(problem.text, values), self.plain(problem.hint, values))

    def linked(self, sentence: str, values: Sequence[Any]) -> str:
        """The same as escaped HTML, in which each field leads to its place."""
        found = naming.parts(self.root, sentence, self._kinds(values))
        return "".join(escape(part) if isinstance(part, str) else self._link(part) for part in found)

    def headed(self, problem: Problem, values: Sequence[Any]) -> tuple[str, str]:
        """The label of a problem's field, which leads there, and its sentence, as HTML."""
        spec = self._where(problem.path, dict(zip(self._keys, values, strict=True)))
        label = self.label(problem, values)
        return self._led(spec, label) if spec else escape(label), self.linked(problem.text, values)

    def _link(self, found: naming.Named) -> str:
        if not found.seen or _key(found.spec) not in self.components:
            return escape(found.words)
        return f"{self._led(found.spec, found.spec.label)}{escape(found.place)}"

    def _led(self, spec: Spec, said: str) -> str:
        within = next((elem_id for elem_id, specs in self.accordions.items() if spec in specs), "")
        return (
            f'<button type="button" class="tb-link" data-field="{self.id(spec)}" data-in="{within}">'
            f"{escape(said)}</button>"
        )

    def _kinds(self, values: Sequence[Any]) -> dict[str, str]:
        return {path.removesuffix(".kind"): value for (path, variant), value in zip(self._keys, values, strict=True)
                if path.endswith(".kind") and not variant}  # fmt: skip

    def _where(self, path: str, held: Mapping[tuple[str, str], Any]) -> Spec | None:
        """The field of a path, or that which holds the entry that it names (`method.own.rank_pattern`)."""
        keys = [(path, ""), *((path, str(kind)) for (tag, _), kind in held.items() if tag.endswith(".kind"))]
        above = path.rpartition(".")[0]
        return next((self.specs[key] for key in keys if key in held), self._where(above, held) if above else None)


def component_id(name: str, spec: Spec) -> str:
    parts = spec.path.split(".")
    return "-".join([name, *parts[:-1], *([spec.variant] if spec.variant else []), parts[-1]])


def _key(spec: Spec) -> tuple[str, str]:
    return spec.path, spec.variant


def _label(spec: Spec) -> str:
    said = spec.unit in spec.label.lower().split()  # `Max rows` needs no `(rows)`
    return f"{spec.label} ({spec.unit})" if spec.unit and not said else spec.label


def _wide(spec: Spec) -> list[str]:
    """The class of a field that takes a row of its own."""
    return ["tb-wide"] if spec.type in ("list", "map") or spec.lines > 1 else []
