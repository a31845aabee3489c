"""Payloads of operators, as the author of a DAG wrote them, shown without what is private.

Imported while DAG files are parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, overload

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from jinja2 import Environment

    _Operator = BaseOperator
else:
    _Operator = object

_NATIVE = "needs render_template_as_native_obj=True on the DAG."
#: What a refusal says of templates, where a mapping or a list is wanted.
NATIVE_MAPPING = f"A template that renders to a mapping {_NATIVE}"
NATIVE_LIST = f"A template that renders to a list {_NATIVE}"
_NO_LITERAL = "\ue000"


class MaskedFields:
    """The fields of a payload, templates included.

    What Airflow shows, logs or stores of it, in rendered fields and in the serialized DAG, has no phone
    numbers and no query strings of URLs, which may be signatures. To Airflow each field is a template field of
    its own, because it logs the whole of a template that fails.

    :param is_field: tells whether a name is one of a field; another may be a value that has lost its header.
    """

    def __init__(self, fields: Mapping[str, Any], is_field: Callable[[str], bool]) -> None:
        genuine = [name for name in fields if isinstance(name, str) and is_field(name)]
        self.__dict__.update(fields=dict(fields), given=fields, genuine=frozenset(genuine), template_fields=genuine)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("genuine", ()):
            return self.fields[name]
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    def serialize(self) -> dict[str, Any]:
        from airflow_provider_dstny.api.privacy import shown

        return {
            (name if name in self.genuine else "***"): shown(name, value) if name in self.genuine else "***"
            for name, value in self.fields.items()
        }

    def __repr__(self) -> str:
        return repr(self.serialize())


class MaskedPayload:
    """An attribute of an operator that takes a mapping or a model, and holds its :class:`MaskedFields`.

    :param is_field: as of :class:`MaskedFields`.
    :param refusal: what to say of anything else.
    :param is_reference: tells whether a text stands for a payload.
    """

    def __init__(
        self,
        is_field: Callable[[str], bool],
        refusal: str,
        is_reference: Callable[[str], object] = lambda text: False,
    ) -> None:
        self.is_field = is_field
        self.refusal = refusal
        self.is_reference = is_reference

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, task: None, owner: type) -> MaskedPayload: ...

    @overload
    def __get__(self, task: object, owner: type) -> Any: ...

    def __get__(self, task: object | None, owner: type) -> Any:
        return self if task is None else getattr(task, f"_{self.name}")

    def __set__(self, task: Any, payload: Any) -> None:
        # A model becomes its fields, so that there is one form to render, show and validate.
        value = payload.to_json() if hasattr(payload, "to_json") else payload
        if isinstance(value, Mapping):
            from airflow.providers.common.compat.sdk import XComArg

            # Airflow does not look for upstream tasks inside of the wrapper.
            XComArg.apply_upstream_relationship(task, dict(value))
            value = MaskedFields(value, self.is_field)
        elif not self._may_become_one(value):
            # Kept, it would be shown as it is.
            raise AirflowFailException(self.refusal)
        setattr(task, f"_{self.name}", value)

    def _may_become_one(self, value: object) -> bool:
        if isinstance(value, str):
            return not is_plain(value) or bool(self.is_reference(value))
        return isinstance(value, MaskedFields) or hasattr(value, "resolve")


class PlainTextMixin(_Operator):
    """Leaves a text without a template alone, at any depth: rendered to a native object, "1.10" becomes 1.1."""

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        # A text may also be the path of a template.
        is_text = is_plain(content) and not content.endswith(tuple(self.template_ext))
        return content if is_text else super().render_template(content, *args, **kwargs)


class MaskedFieldsMixin(PlainTextMixin):
    """Renders :class:`MaskedFields`: a phone number stays text where native rendering makes a number of it."""

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        templates = dict(parent.fields) if isinstance(parent, MaskedFields) else {}
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        for name, template in templates.items():
            rendered = parent.fields[name]
            is_number = isinstance(rendered, int | float) and not isinstance(rendered, bool)
            if is_number and isinstance(template, str) and re.search("(?i)phone|mobile", str(name)):
                # As a number it has lost its plus. What begins with this character is no literal of Python.
                text = self.render_template(f"{_NO_LITERAL}{template}", context, jinja_env)
                setattr(parent, name, text.removeprefix(_NO_LITERAL))


class MaskedPayloadMixin(MaskedFieldsMixin):
    """Renders the :class:`MaskedPayload` of an operator."""

    #: The name of the attribute.
    payload_name: ClassVar[str]

    def payload_fields(self) -> dict[str, Any]:
        """Return the payload as it is, for validation.

        :raises DstnyValidationError: it is no mapping.
        """
        from airflow_provider_dstny.api.errors import DstnyValidationError

        payload = getattr(self, self.payload_name)
        if not isinstance(payload, MaskedFields):
            raise DstnyValidationError(None, getattr(type(self), self.payload_name).refusal)
        return dict(payload.fields)

    def render_template_fields(self, context: Context, jinja_env: Environment | None = None) -> None:
        payload = getattr(self, self.payload_name)
        if isinstance(payload, MaskedFields):
            # Airflow renders a shallow copy of the task: the templates must stay with the original.
            setattr(self, self.payload_name, payload.fields)
        super().render_template_fields(context, jinja_env)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        payload = getattr(self, self.payload_name)
        if isinstance(payload, MaskedFields) and id(payload.given) in seen_oids:
            # What a mapped task gets from another task is no template.
            seen_oids.add(id(payload))
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)


class Hidden:
    """Something that is no payload; Airflow shows nothing of it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def serialize(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "***"


class MaskedRows(list[Any]):
    """Payloads in a list, each as :class:`MaskedFields`; ``given`` is the list of the author of the DAG.

    :param make: makes them of mappings.
    """

    def __init__(self, given: Sequence[Any], make: Callable[[Mapping[str, Any]], MaskedFields]) -> None:
        super().__init__(self._masked(row, make) for row in given)
        self.given = given

    @property
    def fields(self) -> list[Any]:
        """The payloads as they are."""
        return [self._unmasked(row) for row in self]

    @staticmethod
    def _masked(row: Any, make: Callable[[Mapping[str, Any]], MaskedFields]) -> Any:
        if isinstance(row, MaskedFields | Hidden):
            return row
        row = row.to_json() if hasattr(row, "to_json") else row
        if isinstance(row, Mapping):
            return make(row)
        # The output of another task may become one.
        return row if hasattr(row, "resolve") else Hidden(row)

    @staticmethod
    def _unmasked(row: Any) -> Any:
        if isinstance(row, MaskedFields):
            return dict(row.fields)
        return row.value if isinstance(row, Hidden) else row


class MaskedPayloadList:
    """An attribute of an operator that takes a list of mappings or models, and holds its :class:`MaskedRows`, or None.

    :param is_field: as of :class:`MaskedFields`.
    :param refusal: what to say of anything else.
    """

    def __init__(self, is_field: Callable[[str], bool], refusal: str) -> None:
        self.is_field = is_field
        self.refusal = refusal

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, task: None, owner: type) -> MaskedPayloadList: ...

    @overload
    def __get__(self, task: object, owner: type) -> Any: ...

    def __get__(self, task: object | None, owner: type) -> Any:
        return self if task is None else getattr(task, f"_{self.name}")

    def __set__(self, task: Any, payloads: Any) -> None:
        if isinstance(payloads, Sequence) and not isinstance(payloads, str | bytes):
            from airflow.providers.common.compat.sdk import XComArg

            payloads = MaskedRows(payloads, partial(MaskedFields, is_field=self.is_field))
            # Airflow does not look for upstream tasks inside of the wrapper.
            XComArg.apply_upstream_relationship(task, payloads.fields)
        elif not (payloads is None or hasattr(payloads, "resolve") or _is_template(payloads)):
            # Kept, it would be shown as it is.
            raise AirflowFailException(self.refusal)
        setattr(task, f"_{self.name}", payloads)


class MaskedPayloadListMixin(MaskedFieldsMixin):
    """Renders the :class:`MaskedPayloadList` of an operator."""

    #: The name of the attribute.
    payload_name: ClassVar[str]

    def render_template_fields(self, context: Context, jinja_env: Environment | None = None) -> None:
        rows = getattr(self, self.payload_name)
        if isinstance(rows, MaskedRows):
            # Airflow renders a shallow copy of the task: the templates must stay with the original.
            setattr(self, self.payload_name, rows.fields)
        super().render_template_fields(context, jinja_env)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        rows = getattr(self, self.payload_name)
        if isinstance(rows, MaskedRows) and id(rows.given) in seen_oids:
            # What a mapped task gets from another task is no template.
            seen_oids.update(map(id, rows))
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)


def _is_template(value: object) -> bool:
    return isinstance(value, str) and not is_plain(value)


def is_plain(value: object) -> bool:
    """Tell whether something is a text without a template."""
    return isinstance(value, str) and not any(opening in value for opening in ("{{", "{%", "{#"))
