"""Every command but `mcp`: what it takes, and which page of this room does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from headgate import __version__
from headgate.model.pipeline import Half

app = typer.Typer(
    help="Headgate: live streaming data for AI agents, under control.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
key = typer.Typer(help="API keys.", no_args_is_help=True)
stack = typer.Typer(help="Real servers on this machine, from pip packages alone.", no_args_is_help=True)
audit = typer.Typer(help="The record of calls.", no_args_is_help=True)
app.add_typer(audit, name="audit")
app.add_typer(key, name="key")
revoke = typer.Typer(help="Refuses subjects and tokens before their time.", no_args_is_help=True)
app.add_typer(revoke, name="revoke")
pipeline = typer.Typer(help="What a running pipeline is asked to do.", no_args_is_help=True)
letters = typer.Typer(help="Changes that could not be applied (dead letters).", no_args_is_help=True)
approvals = typer.Typer(help="Calls that wait for a person's yes.", no_args_is_help=True)
app.add_typer(approvals, name="approvals")
app.add_typer(pipeline, name="pipeline")
app.add_typer(letters, name="letters")
app.add_typer(stack, name="stack")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The config.")]
Port = Annotated[int | None, typer.Option(help="Over the config's.")]
Resnapshot = Annotated[list[str] | None, typer.Option(help="pipeline.schema.table to read again, whole.")]
DEFAULT_CONFIG = Path("headgate.yaml")
BOTH_HALVES: tuple[Half, ...] = ("capture", "materialize")
STACK_FOLDER = Path(".headgate/stack")


def run(words: Sequence[str]) -> int:
    """Runs one command, and answers its exit code."""
    try:
        app(list(words), prog_name="headgate")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


@app.command()
def demo(
    dir: Annotated[Path, typer.Option(help="Where the shop lives.")] = Path("headgate-demo"),
    port: Annotated[int, typer.Option(help="Where MCP is served.")] = 8765,
    for_: Annotated[float | None, typer.Option("--for", help="Seconds to serve; otherwise until Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(help="Changes a second.", min=0, max=20_000)] = 20,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live display.")] = False,
    with_stack: Annotated[
        bool, typer.Option("--stack", help="On real servers: Postgres, Kafka and Valkey, started here.")
    ] = False,
) -> None:
    """A small shop whose changes an agent's tools answer, within a second."""
    from headgate.cli.demo import run_demo

    run_demo(dir, port, for_, rate, quiet=quiet, with_stack=with_stack)


@app.command()
def init(
    url: Annotated[str, typer.Argument(help="postgresql://…, mysql://…, mariadb://… or sqlite:///…")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = DEFAULT_CONFIG,
    name: Annotated[str | None, typer.Option(help="The pipeline's name; the database's if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Reads a database's schema and writes a commented config."""
    from headgate.cli.setup import run_init

    run_init(url, output, name, force=force)


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Checks a config, and what its sources make of it."""
    from headgate.cli.setup import run_check

    raise typer.Exit(run_check(config))


@app.command()
def doctor(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Tries every part that the config names, and says what is wrong and how to mend it."""
    from headgate.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(config))


@app.command()
def verify(
    pipeline: Annotated[str, typer.Argument(help="The pipeline's name.")],
    config: ConfigPath = DEFAULT_CONFIG,
    settle: Annotated[float, typer.Option(help="Seconds the store may take to catch up with a look.", min=0.1)] = 60.0,
) -> None:
    """Compares the store with the source while changes flow; exit 1: rows differ and stay so, 2: nobody can tell."""
    from headgate.cli.verify import run_verify
    from headgate.config import load

    raise typer.Exit(run_verify(load(config), pipeline, settle))


@app.command()
def detach(
    config: ConfigPath = DEFAULT_CONFIG,
    pipeline: Annotated[str | None, typer.Option(help="This pipeline alone.")] = None,
) -> None:
    """Takes everything of Headgate's off the sources: slots, publications, triggers, change tables."""
    from headgate.cli.setup import run_detach

    run_detach(config, pipeline)


@app.command(name="run")
def run_all(config: ConfigPath = DEFAULT_CONFIG, port: Port = None, resnapshot: Resnapshot = None) -> None:
    """Captures, materializes and serves MCP, in one process."""
    from headgate.cli.processes import run_run

    run_run(config, port, flow=BOTH_HALVES, serve=True, resnapshot=resnapshot or ())


@app.command()
def serve(
    config: ConfigPath = DEFAULT_CONFIG,
    port: Port = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port.", min=1, max=256)] = 1,
) -> None:
    """Serves MCP alone; `headgate sync` or `run` fills the store."""
    if workers > 1:
        from headgate.cli.serve import run_workers

        raise typer.Exit(run_workers(config, port, workers))
    from headgate.cli.processes import run_run

    run_run(config, port, flow=(), serve=True)


@app.command()
def sync(
    config: ConfigPath = DEFAULT_CONFIG,
    resnapshot: Resnapshot = None,
    half: Annotated[Half | None, typer.Option(help="This half alone; another process does the other.")] = None,
) -> None:
    """Captures and materializes alone."""
    from headgate.cli.processes import run_run

    halves = (half,) if half else BOTH_HALVES
    run_run(config, None, flow=halves, serve=False, resnapshot=resnapshot or ())


@app.command()
def mcp(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """MCP on standard input and output, for a client on this machine."""
    from headgate.cli.mcp import run_mcp

    run_mcp(["--config", str(config)])


@app.command()
def token(
    scope: Annotated[list[str], typer.Option(help="A scope; give it again for more.")],
    for_: Annotated[str, typer.Option("--for", help="How long it holds: 30m, 1h, 7d.")] = "1h",
    subject: Annotated[str, typer.Option(help="Who it is for.")] = "developer",
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Mints a development token for this config's server."""
    from headgate.cli.credentials import run_token

    run_token(config, scope, for_, subject)


@key.command("make")
def key_make(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    scope: Annotated[list[str], typer.Option(help="A scope; give it again for more.")],
    for_: Annotated[str | None, typer.Option("--for", help="How long it holds; for ever if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Makes an API key and shows it, this once."""
    from headgate.cli.credentials import run_key_make

    run_key_make(config, name, scope, for_)


@key.command("revoke")
def key_revoke(id: Annotated[str, typer.Argument(help="The key's id.")], config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Revokes an API key; servers honour it within five seconds."""
    from headgate.cli.credentials import run_key_revoke

    raise typer.Exit(run_key_revoke(config, id))


@key.command("list")
def key_list(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """The API keys, without their secrets."""
    from headgate.cli.credentials import run_key_list

    run_key_list(config)


Issued = Annotated[str, typer.Option("--issuer", help="Only where this issuer says so; every one if left out.")]
RefusedFor = Annotated[str, typer.Option("--for", help="How long they are refused: 90s, 30m, 1h, 7d.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take the revocation back.")]


@revoke.command("subject")
def revoke_subject(
    name: Annotated[str, typer.Argument(help="The `sub` of its tokens, or a certificate's subject.")],
    issuer: Issued = "",
    for_: RefusedFor = "24h",
    undo: Undo = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Refuses every token and certificate of a subject, at every server, within five seconds."""
    from headgate.cli.credentials import run_revoke

    raise typer.Exit(run_revoke(config, "subject", name, issuer, for_, undo=undo))


@revoke.command("token")
def revoke_token(
    name: Annotated[str, typer.Argument(help="The token's `jti`.")],
    issuer: Issued = "",
    for_: RefusedFor = "24h",
    undo: Undo = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Refuses one token, at every server, within five seconds."""
    from headgate.cli.credentials import run_revoke

    raise typer.Exit(run_revoke(config, "token", name, issuer, for_, undo=undo))


@revoke.command("list")
def revoke_list(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """What is refused now, and until when."""
    from headgate.cli.credentials import run_revoke_list

    run_revoke_list(config)


PipelineName = Annotated[str, typer.Argument(help="The pipeline.")]
LetterIds = Annotated[list[str] | None, typer.Argument(help="Ids, as `headgate letters list` shows them.")]
AllLetters = Annotated[bool, typer.Option("--all", help="All that there are now.")]


@pipeline.command("pause")
def pipeline_pause(name: PipelineName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Lets a pipeline stand still until it is resumed."""
    from headgate.cli.pipelines import run_pause

    run_pause(config, name)


@pipeline.command("resume")
def pipeline_resume(name: PipelineName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Lets a paused pipeline go on."""
    from headgate.cli.pipelines import run_resume

    run_resume(config, name)


@pipeline.command("restart")
def pipeline_restart(name: PipelineName, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Lets both halves of a pipeline begin anew from their saved positions."""
    from headgate.cli.pipelines import run_restart

    run_restart(config, name)


@pipeline.command("resnapshot")
def pipeline_resnapshot(
    name: PipelineName,
    table: Annotated[str, typer.Argument(help="schema.table")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Reads one table again, whole, while the rows that are there are answered."""
    from headgate.cli.pipelines import run_resnapshot

    run_resnapshot(config, name, table)


@letters.command("list")
def letters_list(
    name: PipelineName,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """The newest dead letters of a pipeline, and why they are there."""
    from headgate.cli.pipelines import run_letters_list

    run_letters_list(config, name, limit)


@letters.command("retry")
def letters_retry(
    name: PipelineName, ids: LetterIds = None, every: AllLetters = False, config: ConfigPath = DEFAULT_CONFIG
) -> None:
    """Applies dead letters once more, after their cause is mended."""
    from headgate.cli.pipelines import run_letters

    run_letters(config, name, "retry", ids or (), every=every)


@letters.command("drop")
def letters_drop(
    name: PipelineName, ids: LetterIds = None, every: AllLetters = False, config: ConfigPath = DEFAULT_CONFIG
) -> None:
    """Removes dead letters; an entity that stands still before one passes it over."""
    from headgate.cli.pipelines import run_letters

    run_letters(config, name, "drop", ids or (), every=every)


@audit.command("verify")
def audit_verify(
    config: ConfigPath = DEFAULT_CONFIG,
    outbox: Annotated[bool, typer.Option("--outbox", help="The outboxes of this machine's data folder.")] = False,
    log: Annotated[bool, typer.Option("--log", help="The log.")] = False,
    export: Annotated[Path | None, typer.Option(help="A file of headgate audit export.")] = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="Another machine's key; give it again for more.")
    ] = None,
) -> None:
    """Finds what was changed, taken out, moved, doubled or cut off in the record."""
    from headgate.cli.audit import run_verify

    raise typer.Exit(run_verify(config, outbox=outbox, log=log, export=export, keys=public_key or ()))


@audit.command("export")
def audit_export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    config: ConfigPath = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Writes the record as JSON Lines that verify takes."""
    from headgate.cli.audit import run_export

    run_export(config, output, force=force)


@audit.command("key")
def audit_key(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """The public key that this machine's checkpoints are verified by."""
    from headgate.cli.audit import run_key

    run_key(config)


@app.command()
def contract(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """The topics that Headgate writes, as an AsyncAPI document."""
    from headgate.cli.audit import run_contract

    run_contract(config)


StackDir = Annotated[Path, typer.Option("--dir", help="Where the servers keep their files.")]


@stack.command("up")
def stack_up(
    with_: Annotated[str, typer.Option("--with", help="More servers: connect,registry,mariadb,mysql")] = "",
    dir: StackDir = STACK_FOLDER,
) -> None:
    """Starts Kafka, Postgres and Valkey on loopback, and prints the config's connections."""
    from headgate.cli.stack import run_up

    run_up(dir, [name for name in with_.split(",") if name])


@stack.command("down")
def stack_down(
    dir: StackDir = STACK_FOLDER,
    purge: Annotated[bool, typer.Option("--purge", help="Remove their data too.")] = False,
) -> None:
    """Stops the servers."""
    from headgate.cli.stack import run_down

    run_down(dir, purge=purge)


@stack.command("status")
def stack_status(dir: StackDir = STACK_FOLDER) -> None:
    """Which servers run, and where."""
    from headgate.cli.stack import run_status

    run_status(dir)


# --- policy ---------------------------------------------------------------------------------------

policy = typer.Typer(help="What callers see, by the policy's document.", no_args_is_help=True)
app.add_typer(policy, name="policy")
PolicyPath = Annotated[Path | None, typer.Option(help="Another document than the config's.")]


ApprovalId = Annotated[str, typer.Argument(help="As headgate approvals list shows it.")]


@approvals.command("list")
def approvals_list(
    config: ConfigPath = DEFAULT_CONFIG,
    all_: Annotated[bool, typer.Option("--all", help="Decided and used ones too, until they expire.")] = False,
) -> None:
    """The calls that wait, the oldest first."""
    from headgate.cli.approvals import run_list

    run_list(config, every=all_)


@approvals.command("approve")
def approvals_approve(
    id: ApprovalId,
    config: ConfigPath = DEFAULT_CONFIG,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Lets that very call act, once."""
    from headgate.cli.approvals import run_decide

    run_decide(config, id, "approved", reason)


@approvals.command("deny")
def approvals_deny(
    id: ApprovalId,
    reason: Annotated[str, typer.Option(help="Why; the caller is told it.")],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Lets that call not act, and tells its caller why."""
    from headgate.cli.approvals import run_decide

    run_decide(config, id, "denied", reason)


@policy.command("test")
def policy_test(
    document: Annotated[Path | None, typer.Argument(help="The document; the config's if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Runs the document's own tests; exit 1 when one is not as expected."""
    from headgate.cli.policy import run_policy_test

    raise typer.Exit(run_policy_test(document, config))


@policy.command("explain")
def policy_explain(
    caller: Annotated[str, typer.Argument(help="A token, an API key, or YAML such as {claims: {tenant: acme}}.")],
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    entity: Annotated[str | None, typer.Argument(help="The entity's name.")] = None,
    policy: PolicyPath = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Says what a caller gets of an entity by a tool, and by which rule; exit 1 when it gets nothing."""
    from headgate.cli.policy import run_policy_explain

    raise typer.Exit(run_policy_explain(config, policy, caller, tool, entity))


@policy.command("check")
def policy_check(
    document: Annotated[Path | None, typer.Argument(help="The document; the config's if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Checks the document beside the entities that there are; exit 1 when a server would refuse it."""
    from headgate.cli.policy import run_policy_check

    raise typer.Exit(run_policy_check(document, config))


@app.command()
def classify(
    config: ConfigPath = DEFAULT_CONFIG,
    entity: Annotated[str | None, typer.Option(help="This entity alone.")] = None,
    sample: Annotated[int, typer.Option(help="Rows to look at, of each entity.", min=1, max=100_000)] = 1_000,
    write: Annotated[bool, typer.Option("--write", help="Keep the classes in the config.")] = False,
) -> None:
    """Proposes classes for fields by their names and values: what looks like personal data, or a secret."""
    from headgate.cli.classify import run_classify

    raise typer.Exit(run_classify(config, entity, sample, write=write))
