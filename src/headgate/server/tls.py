"""TLS by the server itself: a certificate and its key in files, read again when they are renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

from headgate.errors import ConfigError
from headgate.model.finding import Finding

_DAY_MS = 86_400_000
_SOON_DAYS = 14


def open_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """What connections are served by: TLS 1.2 at least. ConfigError when the files do not hold."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    read_again(context, cert, key)
    return context


def read_again(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Lets connections from now on be served by what the files hold now. ConfigError: the context is as before."""
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # what fails half-way must not be half there
    for each in (probe, context):
        try:
            each.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{cert.name} and {key.name}: server.tls needs a certificate chain and its own key in PEM, which this "
                "process may read and no password locks"
            ) from error


def diagnose(cert: Path, key: Path, now_ms: int) -> Finding:
    """What `doctor` says of the files: whether they hold, and for how long the certificate does. Never raises."""
    from cryptography.x509 import load_pem_x509_certificates  # for doctor alone

    part = "server.tls"
    try:
        open_tls(cert, key)
        end = load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc
    except (ConfigError, OSError, ValueError) as error:
        message = error.message if isinstance(error, ConfigError) else f"{cert.name} holds no certificate"
        return Finding(level="error", part=part, message=message, mend="name the files in server.tls, or mend them")
    days = (end.timestamp() * 1000 - now_ms) / _DAY_MS
    message = f"the certificate in {cert.name} {'ended' if days < 0 else 'holds until'} {end:%Y-%m-%d %H:%M} UTC"
    if days >= _SOON_DAYS:
        return Finding(level="ok", part=part, message=message)
    mend = "renew it: the files are read again by themselves"
    return Finding(level="error" if days < 0 else "warning", part=part, message=message, mend=mend)


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise OSError("the key is locked by a password")
