"""Connections to servers with a REST API: what the config says of one, and what their HTTP clients have in common."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr


def _with_scheme(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the url begins with http:// or https://")
    if parts.username or parts.password:
        raise ValueError("the url holds no user or password: use username and password")
    return url.rstrip("/")


class RestConfig(BaseModel):
    """Where such a server is, and who we are there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_with_scheme)]
    """Where its API begins."""
    username: str | None = None
    password: SecretStr | None = None
    tls_ca: FilePath | None = None
    """Authorities that may sign the server's certificate (PEM); the system's unless set."""
    timeout_s: float = Field(default=5.0, gt=0)
    """How long one answer may take."""

    def describe(self) -> str:
        """Where it leads."""
        return self.url

    def client(self) -> dict[str, Any]:
        """The settings of an HTTP client for it. Heavy: loads the client's library."""
        import httpx2

        secret = self.password.get_secret_value() if self.password else ""
        return {
            "auth": httpx2.BasicAuth(self.username, secret) if self.username else None,
            "verify": httpx2.create_ssl_context(verify=str(self.tls_ca)) if self.tls_ca else True,
            "timeout": self.timeout_s,
            "follow_redirects": False,  # a password goes where the config says, and nowhere else
        }
