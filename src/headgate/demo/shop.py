"""The shop's tables, its first rows, and the config that serves them, on SQLite and on Postgres."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Dialect = Literal["sqlite", "postgres"]

CUSTOMERS, PRODUCTS, ORDERS = 200, 50, 600
PLANS = ("free", "basic", "pro", "vip")
STATUSES = ("placed", "paid", "packed", "shipped", "delivered", "returned")

_SQLITE = """
create table customers (
    id integer primary key, name text not null, email text not null unique, plan text not null,
    city text, created_at timestamp not null);
create table products (
    id integer primary key, sku text not null unique, title text not null, price decimal(10,2) not null,
    stock integer not null);
create table orders (
    id integer primary key, customer_id integer not null references customers(id), status text not null,
    total decimal(10,2) not null, placed_at timestamp not null);
create table payments (
    id integer primary key, order_id integer not null references orders(id), method text not null,
    amount decimal(10,2) not null, paid_at timestamp not null);
create index orders_customer on orders(customer_id);
create index orders_placed_at on orders(placed_at);
create index payments_order on payments(order_id);
"""

_FIRST = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Margaret", "Ken", "Radia", "Linus", "Frances", "Tim")
_LAST = ("Moreau", "Okafor", "Lindqvist", "Tanaka", "Silva", "Novak", "Haddad", "Kumar", "Rossi", "Meyer", "Costa")
_CITIES = ("Lyon", "Lagos", "Malmö", "Osaka", "Porto", "Brno", "Beirut", "Pune", "Turin", "Bremen")
_THINGS = ("kettle", "lamp", "desk", "chair", "rug", "clock", "shelf", "mirror", "vase", "stool")
_KINDS = ("oak", "steel", "glass", "linen", "clay")


def schema(dialect: Dialect) -> list[str]:
    """The statements that make the tables."""
    text = _SQLITE
    if dialect == "postgres":
        text = text.replace("id integer primary key", "id bigint primary key").replace("decimal(", "numeric(")
        text = text.replace("timestamp not null", "timestamptz not null")
        text = text.replace("_id integer", "_id bigint")
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def first_rows(dice: random.Random, now: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """The rows that the shop opens with: `insert` statements with `?` and their values."""
    for number in range(1, CUSTOMERS + 1):
        yield customer(number, dice, now)
    for number in range(1, PRODUCTS + 1):
        title = f"{dice.choice(_KINDS)} {dice.choice(_THINGS)}"
        yield (
            "insert into products values (?, ?, ?, ?, ?)",
            (number, f"SKU-{number:04d}", title, price(dice), dice.randrange(500)),
        )
    for number in range(1, ORDERS + 1):
        yield order(number, dice.randint(1, CUSTOMERS), dice, now)


def customer(number: int, dice: random.Random, now: str) -> tuple[str, Sequence[Any]]:
    """A new customer."""
    name = f"{dice.choice(_FIRST)} {dice.choice(_LAST)}"
    email = f"{name.lower().replace(' ', '.')}.{number}@example.com"
    values = (number, name, email, dice.choice(PLANS[:3]), dice.choice(_CITIES), now)
    return "insert into customers values (?, ?, ?, ?, ?, ?)", values


def order(number: int, customer_id: int, dice: random.Random, now: str) -> tuple[str, Sequence[Any]]:
    """A new order."""
    return "insert into orders values (?, ?, ?, ?, ?)", (number, customer_id, "placed", price(dice), now)


def price(dice: random.Random) -> str:
    """An amount of money, as decimal text."""
    return f"{dice.randrange(500, 50_000) / 100:.2f}"


def config(source: str, schema: str, connections: str = "", places: str = "") -> str:
    """The demo's `headgate.yaml`: `source` is a YAML mapping, `connections` and `places` whole YAML lines."""
    return f"""\
# The shop of `headgate demo`. Serve it again with:  headgate run --config <this file>
data: data
server: {{host: 127.0.0.1, port: 8765}}
access:
  local: true  # a client on this machine needs no token
{connections}pipelines:
  shop:
    source: {source}
{places}entities:
  customer:
    from: shop.{schema}.customers
    description: Who buys. Plans are free, basic, pro and vip.
    lookups: [email, plan]
    sorted: [created_at]
    fields:
      name: {{class: personal.name}}
      email: {{class: personal.email}}
  product:
    from: shop.{schema}.products
    lookups: [sku]
    sorted: [price, stock]
  order:
    from: shop.{schema}.orders
    description: One purchase. Its status goes from placed to delivered, or to returned.
    lookups: [customer_id, status]
    sorted: [placed_at, total]
  payment:
    from: shop.{schema}.payments
    lookups: [order_id]
    sorted: [paid_at]
"""
