"""Classes that names and values suggest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.access.classify import by_name, by_values, is_card, is_iban, is_ip, is_phone, propose
from headgate.model.entity import Entity, Field
from headgate.model.row import Row


def test_a_name_is_personal_where_people_are_kept() -> None:
    assert by_name("public.customers", "name") == "personal.name"
    assert by_name("public.products", "name") == ""
    assert by_name("public.products", "hostname") == ""
    assert by_name("public.x", "ip_address") == "personal.ip"
    assert by_name("public.x", "recipe") == ""


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("c", ["ada@b.example", "bob@c.example", "eve@d.example", "d@e.example", "?"] * 5, "personal.email"),
        ("c", ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "BE68539007547034"], "personal.iban"),
        ("c", ["DE89370400440532013001"] * 5, ""),
        ("c", ["4111 1111 1111 1111", "5500-0000-0000-0004", 340000000000009], "personal.card"),
        ("c", ["4111111111111112"] * 5, ""),
        ("c", ["10.0.0.1", "192.168.7.9", "::1"], "personal.ip"),
        ("c", ["+49 30 1234567", "(030) 123-4567", "0301234567"], "personal.phone"),
        ("full_title_name", ["Ada Lovelace", "Bob B. Brown", "Ève de la Cour"], "personal.name"),
        ("city", ["New York", "Los Angeles", "San Jose"], ""),
        ("c", ["2026-11-21", "2026-11-22", "2026-11-23"], ""),
        ("c", [1, 2, 3, 4], ""),
        ("c", [1234567, 7654321, 5555555], ""),
        ("c", ["ada@b.example"] * 2, ""),
        ("c", [None, None, True, {"a": "ada@b.example"}], ""),
    ],
)  # fmt: skip
def test_values_say_what_they_look_like(column: str, values: list[Any], expected: str) -> None:
    found, why = by_values(column, values)
    assert found == expected and bool(why) == bool(expected)


def test_checksums_and_forms() -> None:
    assert is_iban("GB29 NWBK 6016 1331 9268 19") and not is_iban("GB29NWBK60161331926818") and not is_iban("GB29")
    assert is_card("4111111111111111") and not is_card("1111111111111117") and not is_card("411111111111111")
    assert is_ip("2001:db8::1") and not is_ip("12345") and not is_ip("1.2.3")
    assert is_phone("+1 (555) 010-9999") and not is_phone("0 1 2") and not is_phone("12 Main Street")


def test_a_proposal_keeps_what_the_config_says() -> None:
    entity = Entity(
        name="customer", pipeline="shop", table="main.customers", key=("id",),
        fields=(Field(name="id", type="integer"), Field(name="email", type="string", classification="none"),
                Field(name="contact", type="string"), Field(name="phone", type="string")),
    )  # fmt: skip
    rows = [Row(str(n), 0, 0, json.dumps({"id": n, "email": f"a{n}@b.example", "contact": f"b{n}@c.example"}).encode())
            for n in range(5)]  # fmt: skip
    found = propose(entity, [*rows, Row("x", 0, 0, b"no json")])
    assert [(each.field, each.proposed, each.is_news) for each in found] == [
        ("id", "none", True), ("email", "none", False), ("contact", "personal.email", True),
        ("phone", "personal.phone", True),
    ]  # fmt: skip
    assert [each.why for each in found[2:]] == ["5 of 5 values look like e-mail addresses", "by its name"]
