"""What `information_schema` says of a table of MariaDB, with types that no server of the tests has."""

from __future__ import annotations

from typing import Any

from headgate.sources.mysql.schema import Relation, described


def table(*columns: tuple[str, str], key: str, is_mariadb: bool = True) -> Relation:
    rows: list[tuple[Any, ...]] = [
        ("shop.t", name, declared.partition("(")[0], declared, "NO") for name, declared in columns
    ]
    return described("shop.t", 1, rows, set(), [("shop.t", "PRIMARY", "0", key, None)], [], is_mariadb=is_mariadb)


def test_a_column_that_cannot_be_read_is_named_with_its_type() -> None:
    relation = table(("id", "int(11)"), ("embedding", "vector(3)"), ("name", "varchar(9)"), key="id")
    assert [column.name for column in relation.table.columns] == ["id", "name"]
    assert relation.left_out == ("embedding (vector(3))",)
    assert relation.table.key == ("id",)


def test_mysqls_vector_is_an_array() -> None:
    relation = table(("id", "int"), ("embedding", "vector(3)"), key="id", is_mariadb=False)
    assert [column.type for column in relation.table.columns] == ["integer", "array"] and relation.left_out == ()


def test_a_table_whose_key_cannot_be_read_has_none() -> None:
    assert table(("id", "vector(3)"), ("name", "varchar(9)"), key="id").table.key == ()


def test_what_can_be_read_is_not_left_out() -> None:
    relation = table(("id", "uuid"), ("ip", "inet6"), ("old", "inet4"), key="id")
    assert relation.left_out == ()
    assert [column.type for column in relation.table.columns] == ["uuid", "string", "string"]
