"""What kafka_to_redis.py holds itself against, each a process of its own that prints one JSON object.

consume BOOTSTRAP TOPIC RECORDS      the limit before: records are read and counted
set URL KEYS CHANGES BYTES           the limit behind: SET in pipelines of 500, packed beforehand
redis-py BOOTSTRAP TOPIC RECORDS URL a consumer as most people write it: json.loads, a SET a message in pipelines
                                     of 500, then a commit; no transaction, no lookup, no order, no exactly-once
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import hiredis
import redis
from confluent_kafka import Consumer, TopicPartition

BATCH = 500


def consumer_of(bootstrap_servers: str, topic: str) -> Consumer:
    """Reads all of a topic from its beginning, with the local queue that we have found to be the quickest."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "peer",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,
            "queued.max.messages.kbytes": 32_768,
        }
    )
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    return consumer


def consume(bootstrap_servers: str, topic: str, records: str) -> int:
    """Reads and counts."""
    consumer, seen, wanted = consumer_of(bootstrap_servers, topic), 0, int(records)
    while seen < wanted:
        if consumer.poll(1.0) is not None:
            seen += 1 + len(consumer.consume(5_000, 0))
    return seen


def write(url: str, keys: str, changes: str, size: str) -> int:
    """SETs of random keys."""
    dice, count, value = random.Random(1), int(changes), b"x" * int(size)
    names = (
        b"{headgate:0}:r:account:01234567:1760000000000:%d" % dice.randrange(int(keys)) for _ in range(100 * BATCH)
    )
    pack: Any = hiredis.pack_command
    packed = [pack(("SET", name, value)) for name in names]
    batches = [b"".join(packed[start : start + BATCH]) for start in range(0, len(packed), BATCH)]
    connection: Any = redis.Redis.from_url(url, protocol=2).connection_pool.get_connection()
    for number in range(count // BATCH):
        connection.send_packed_command([batches[number % len(batches)]])
        for _ in range(BATCH):
            connection.read_response()
    return count


def follow(bootstrap_servers: str, topic: str, records: str, url: str) -> int:
    """The consumer as it is usually written."""
    consumer, client, seen = consumer_of(bootstrap_servers, topic), redis.Redis.from_url(url), 0
    pipeline = client.pipeline(transaction=False)
    while seen < int(records):
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        seen += 1
        key, value = message.key(), message.value()
        if key is not None and value is not None:
            change = json.loads(value)
            if change["op"] == "d":
                pipeline.delete(f"account:{json.loads(key)['id']}")
            elif change["op"] in ("c", "u", "r"):
                pipeline.set(f"account:{change['after']['id']}", json.dumps(change["after"]))
        if len(pipeline) >= BATCH:
            pipeline.execute()
            consumer.commit(asynchronous=True)
    pipeline.execute()
    return seen


def main() -> None:
    """One subject."""
    subjects: dict[str, Callable[..., int]] = {"consume": consume, "set": write, "redis-py": follow}
    began = time.perf_counter()
    done = subjects[sys.argv[1]](*sys.argv[2:])
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "changes_per_s": round(done / seconds),
                "cpu_us": round((used.ru_utime + used.ru_stime) * 1e6 / done, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
