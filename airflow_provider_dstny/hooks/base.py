"""What the hooks share: reading a connection, and the connection form of every Airflow version."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit

from airflow.providers.common.compat.sdk import BaseHook
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.ids import encode_id
from airflow_provider_dstny.provider_info import connection_form

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_dstny.api.client import ApiClient

ClientT = TypeVar("ClientT", bound="ApiClient")

#: Extras that clients need not know.
_NOT_OF_CLIENTS = {"app_url", "daily_conversation_quota", "webhook_secrets"}
#: A person is waiting for the Test button.
_TEST_OPTIONS = {"max_retries": 0, "timeout": 10.0}


def _true_false_or_path(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _json_object(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON object") from None


def _texts(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


#: Everybody knows a blank one.
_Secret: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("must be an http or https address without user, query or fragment")
    return value.rstrip("/")


class ConnectionExtra(BaseModel):
    """The extras of a connection. Forms send text and empty fields, files and URIs send JSON types."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    timeout: float | None = Field(default=None, gt=0, le=86400)
    max_retries: int | None = Field(default=None, ge=0, le=100)
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    verify: Annotated[bool | str | None, BeforeValidator(_true_false_or_path)] = None
    paths: Annotated[dict[str, Any] | None, BeforeValidator(_json_object)] = None
    app_url: Annotated[str | None, AfterValidator(_web_address)] = None
    throttle_url: str | None = Field(default=None, repr=False)
    daily_conversation_quota: int | None = Field(default=None, ge=1)
    webhook_secrets: Annotated[list[_Secret], BeforeValidator(_texts)] = Field(default_factory=list, repr=False)

    @classmethod
    def parse(cls, values: Any) -> ConnectionExtra:
        """Validate the extras, empty ones left out.

        :raises DstnyValidationError: names the extra that is wrong.
        """
        if not isinstance(values, Mapping):
            raise DstnyValidationError(None, "The connection's extra is not a JSON object.")
        given = {name: value for name, value in values.items() if value is not None and value != ""}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            reasons = "; ".join(f"{detail['loc'][0]}: {detail['msg']}" for detail in error.errors())
        raise DstnyValidationError(None, f"The connection's extra is not usable: {reasons}.")

    def client_options(self) -> dict[str, Any]:
        """Return what was given, as keyword arguments of a client."""
        return self.model_dump(include=set(type(self).model_fields) - _NOT_OF_CLIENTS, exclude_none=True)


def base_url_of(connection: Connection, default: str = "") -> str:
    """Compose the address from host, schema and port; what the host itself says wins.

    :param default: the address of an API that is the same for everybody.
    :raises DstnyValidationError: there is no host.
    """
    host = (connection.host or "").strip() or default
    if not host:
        raise DstnyValidationError(None, "The connection has no host: put the base URL of the API there.")
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    try:
        parts = urlsplit(host)
    except ValueError:
        raise DstnyValidationError(None, "The connection's host is not a URL.") from None
    if connection.port and not parts.netloc.rpartition("]")[2].count(":"):
        parts = parts._replace(netloc=f"{parts.netloc}:{connection.port}")
    return urlunsplit(parts)


def mask_secret(secret: str) -> None:
    """Keep a secret that the connection does not mark as one from the logs and rendered fields of Airflow."""
    try:
        masker = import_module("airflow.sdk.log")
    except ImportError:
        # Where Airflow 3.0 has it.
        masker = import_module("airflow.sdk.execution_time.secrets_masker")
    masker.mask_secret(secret)


async def aget_connection(conn_id: str) -> Connection:
    """Resolve a connection without blocking the event loop."""
    if hasattr(BaseHook, "aget_connection"):
        return await BaseHook.aget_connection(conn_id)
    # Airflow 3.0 has only the blocking call.
    from asgiref.sync import sync_to_async

    return await sync_to_async(BaseHook.get_connection)(conn_id)


class DstnyBaseHook(BaseHook, Generic[ClientT]):
    """Turns a connection into a client of its API. The connection is resolved once per hook.

    :param dstny_conn_id: the Airflow connection.
    """

    conn_name_attr = "dstny_conn_id"
    conn_type: ClassVar[str]
    hook_name: ClassVar[str]
    default_base_url: ClassVar[str] = ""
    #: Where people open conversations, unless the connection says otherwise; empty where that is not known.
    default_app_url: ClassVar[str] = "https://app.meetric.com"

    def __init__(self, dstny_conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dstny_conn_id = dstny_conn_id
        # A function, because a kept connection would show its password when printed.
        self._new_client: Callable[[], ClientT] | None = None
        self._app_url = self.default_app_url
        #: Conversations that the token may read a day, None if the connection does not say.
        self.daily_conversation_quota: int | None = None

    def conversation_page(self, conversation_id: str | int | None = None) -> str:
        """Return where people open a conversation, or all of them; empty where that is not known."""
        if not self._app_url or conversation_id is None:
            return self._app_url
        return f"{self._app_url}/recording/{encode_id(conversation_id, 'conversation_id')}"

    def use(self, connection: Connection) -> Self:
        """Take a connection that is resolved already.

        :raises DstnyValidationError: a field of the connection cannot work, named.
        """
        self._new_client = self._prepare(connection)
        return self

    def get_conn(self) -> ClientT:
        """Return a client; use it as a context manager.

        :raises DstnyValidationError: a field of the connection cannot work, named.
        """
        if self._new_client is None:
            self._new_client = self._prepare(self.get_connection(self.dstny_conn_id))
        return self._new_client()

    @asynccontextmanager
    async def get_async_conn(self) -> AsyncIterator[ClientT]:
        """Yield a client to await; the connection is resolved without blocking the event loop."""
        if self._new_client is None:
            self._new_client = self._prepare(await aget_connection(self.dstny_conn_id))
        async with self._new_client() as client:
            yield client

    def test_connection(self) -> tuple[bool, str]:
        """Make one cheap request; tell what was reached, or which field to fix."""
        try:
            connection = self.get_connection(self.dstny_conn_id)
            with self._prepare(connection, **_TEST_OPTIONS)() as client:
                told = f"Reached {self.hook_name} at {client.base_url}. {self._greet(client)}"
                if client.lost_store:
                    told += f" But throttle_url: {client.lost_store} was not reached from here."
                return True, told
        except DstnyError as error:
            return False, str(error)

    @classmethod
    def client_class(cls) -> type[ClientT]:
        """Return the client, imported only now: DAG files import hooks, and the models take time to build."""
        raise NotImplementedError

    def _greet(self, client: ClientT) -> str:
        """Make the request of :meth:`test_connection` and say what it showed."""
        raise NotImplementedError

    def _prepare(self, connection: Connection, **overrides: Any) -> Callable[[], ClientT]:
        """Check a connection and return what makes clients of it."""
        extra = ConnectionExtra.parse(connection.extra_dejson)
        if unknown := sorted(extra.model_extra or {}):
            self.log.warning("Connection %s has unknown extras, ignored: %s", self.dstny_conn_id, ", ".join(unknown))
        self._app_url = extra.app_url or self._app_url
        self.daily_conversation_quota = extra.daily_conversation_quota
        options = {**extra.client_options(), **overrides}
        base_url = base_url_of(connection, self.default_base_url)

        def new_client() -> ClientT:
            from airflow_provider_dstny.hooks.metrics import AirflowMetrics

            return self.client_class()(
                base_url, connection.password or "", on_secret=mask_secret, metrics=AirflowMetrics(), **options
            )

        return new_client

    # Airflow 3.2 and later read the form from the manifest; 3.0 and 3.1 ask these two methods.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Those that a class inherits, they do not ask.
        for name in ("get_connection_form_widgets", "get_ui_field_behaviour"):
            if name not in vars(cls):
                setattr(cls, name, vars(DstnyBaseHook)[name])

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        from wtforms import IntegerField, PasswordField, StringField
        from wtforms.validators import Optional

        def widget(field: dict[str, Any]) -> Any:
            schema = field["schema"]
            # A field of another class, such as one for fractions, would cost the whole form.
            kind = IntegerField if "integer" in schema["type"] else StringField
            if schema.get("format") == "password":
                kind = PasswordField
            return kind(field["label"], description=field["description"], validators=[Optional()])

        return {name: widget(field) for name, field in connection_form(cls.conn_type)["conn-fields"].items()}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        behaviour = connection_form(cls.conn_type)["ui-field-behaviour"]
        return {
            "hidden_fields": behaviour["hidden-fields"],
            "relabeling": behaviour["relabeling"],
            "placeholders": behaviour["placeholders"],
        }
