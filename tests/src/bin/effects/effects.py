# Judges what PostgreSQL's regression suite asks, and compares with what the server itself says of each statement.
# One JSON object comes in sys.argv[1]: logs (all, mod, ddl), agent, policy, host, port; one with the figures goes out.
import collections, csv, json, re, subprocess, sys

import psycopg

GIVEN = json.loads(sys.argv[1])
csv.field_size_limit(1 << 30)
RANK = {name: rank for rank, name in enumerate(["read", "write", "ddl", "admin", "unknown"])}

# Where the table of effects and GetCommandLogLevel (src/backend/tcop/utility.c) differ on purpose: command tag, what the
# server logs it as, what it is here at least, why.
EXCEPTIONS = {
    ("cluster", "ddl"): ("write", "rewrites a table in another order; its definition stays"),
    ("refresh materialized view", "ddl"): ("write", "fills a relation; its definition stays"),
}

# What is seen to change and is no change: kinds or parts of the text, which of LOOK's columns may differ, why.
LOCKS, TRANSACTION_ID = 0, 4
UNCHANGED = [
    ("explain", LOCKS, "EXPLAIN plans under the locks of what it plans, until the transaction ends"),
    ("pg_sequences", LOCKS, "PostgreSQL's own view looks at sequences under the lock that nextval takes"),
    ("txid_current", TRANSACTION_ID, "gives the transaction a number, which says nothing of data"),
    ("pg_current_xact_id", TRANSACTION_ID, "likewise"),
]

# Volatile, and without an effect that outlives the statement.
HARMLESS_VOLATILE = set("""
clock_timestamp timeofday random gen_random_uuid currval lastval pg_sleep pg_sleep_for pg_sleep_until
pg_relation_size pg_table_size pg_total_relation_size pg_indexes_size pg_database_size pg_tablespace_size
pg_column_size pg_relation_filenode pg_relation_filepath pg_tablespace_location cursor_to_xml
pg_size_pretty pg_get_backend_memory_contexts pg_lock_status pg_blocking_pids pg_isolation_test_session_is_blocked
pg_prepared_statement pg_prepared_xact pg_cursor pg_available_extensions pg_stat_get_wal has_table_privilege
pg_timezone_names pg_show_all_settings pg_collation_actual_version pg_notification_queue_usage
txid_current_if_assigned pg_current_xact_id_if_assigned pg_last_committed_xact pg_xact_commit_timestamp
pg_jit_available pg_stat_get_xact_tuples_returned pg_stat_get_snapshot_timestamp pg_safe_snapshot_blocking_pids
""".split())
# Stable by their declaration, and yet more than a look.
EFFECTS_STABLE = re.compile(r"_to_xml|_to_xml_and_xmlschema|_to_xmlschema|^ts_stat$|^txid_current$|^pg_current_xact_id$|^lo_|^pg_read_|^pg_ls_|^pg_stat_file$")


def logged(level):
    """Texts of messages as the server logged them, with how often."""
    found, databases = collections.Counter(), {}
    with open(GIVEN["logs"][level], newline="", encoding="utf-8", errors="surrogateescape") as log:
        for row in csv.reader(log):
            text = re.sub(r"\A(?:statement|execute [^:]*|execute fetch from [^:]*): ", "", row[13], count=1)
            if text != row[13] and row[2] in ("regression", "contrib"):
                found[text] += 1
                databases[text] = row[2]
    return found, databases


def judged(texts):
    """What `portcullis policy explain` says of each text, in order."""
    asked = subprocess.run(
        [GIVEN["agent"], "policy", "explain", "--policy", GIVEN["policy"], "--protocol", "postgres", "-0", "--json"],
        input="\0".join(texts).encode("utf-8", "surrogateescape"), capture_output=True, check=True)
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert len(answers) == len(texts), f"{len(answers)} answers to {len(texts)} texts: {asked.stderr.decode()}"
    return dict(zip(texts, answers))


def below_the_log(judgements, ddl, mod):
    """Texts judged below what the server logged them as, but for the exceptions; and how often each exception was met."""
    below, met = [], collections.Counter()
    for texts, level, least in ((ddl, "ddl", "ddl"), (mod, "mod", "write")):
        for text in texts:
            answer = judgements[text]
            if RANK[answer["effect"]] >= RANK[least]:
                continue
            known = [EXCEPTIONS.get((operation["kind"], level)) for operation in answer["operations"]]
            if any(known) and all(RANK[answer["effect"]] >= RANK[one[0]] for one in known if one):
                met.update(operation["kind"] for operation, one in zip(answer["operations"], known) if one)
            else:
                below.append({"text": text, "server": level, "judged": answer["effect"]})
    return below, met


class Server:
    """A session in which each statement is tried for itself and undone."""

    # What READ ONLY does not forbid and another session would notice: locks, large objects, who acts.
    LOOK = b"""SELECT (SELECT string_agg(DISTINCT locktype || ' ' || mode, ',' ORDER BY locktype || ' ' || mode) FROM pg_catalog.pg_locks
        WHERE pid = pg_catalog.pg_backend_pid() AND (locktype = 'advisory' OR (locktype IN ('relation', 'tuple') AND mode <> 'AccessShareLock'))),
        pg_catalog.current_setting('role'), session_user, (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata),
        pg_catalog.pg_current_xact_id_if_assigned()"""

    def __init__(self, database):
        self.database = database
        self.connection = None
        self.unchanged = 0

    def connect(self):
        if self.connection is None or self.connection.closed or self.connection.pgconn.status:
            self.connection = psycopg.connect(host=GIVEN["host"], port=GIVEN["port"], user="postgres", password="superuser",
                                              dbname=self.database, autocommit=True, options="-c statement_timeout=3s -c log_statement=none")
            self.connection.pgconn.exec_(b"SET client_min_messages = error")
        return self.connection.pgconn

    def run(self, sql):
        """The SQLSTATE of a message and its last result; what COPY shows is read to its end."""
        connection = self.connect()
        result = connection.exec_(sql if isinstance(sql, bytes) else sql.encode("utf-8", "surrogateescape"))
        if result.status == psycopg.pq.ExecStatus.COPY_OUT:
            while connection.get_copy_data(0)[0] > 0:
                pass
            while (more := connection.get_result()) is not None:
                result = more
        elif result.status == psycopg.pq.ExecStatus.COPY_IN:
            connection.put_copy_end(b"not here")
            while (more := connection.get_result()) is not None:
                result = more
        code = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        return (code.decode() if code else None), result

    def read_only(self, text, forget=True):
        """Runs a text in a read-only transaction: its SQLSTATE, and what was seen to change."""
        try:
            _, before = self.run(b"ROLLBACK; BEGIN READ ONLY; " + self.LOOK)
            code, _ = self.run(text)
            changed = None
            if code is None:
                _, after = self.run(self.LOOK)
                if after.ntuples and before.ntuples:
                    seen = [[result.get_value(0, at) for at in range(5)] for result in (before, after)]
                    differ = {at for at in range(5) if seen[0][at] != seen[1][at]}
                    known = {at for part, at, _ in UNCHANGED if part in text.lower()}
                    changed = repr(seen) if differ - known else None
                    self.unchanged += bool(differ and not changed)
            if forget or changed:
                self.run(b"ROLLBACK")
                self.run(b"DISCARD ALL")
                self.run(b"SET client_min_messages = error; SET statement_timeout = '3s'")
            return code, changed
        except psycopg.Error as error:
            self.connection = None
            return f"lost: {error}", None

    def calls(self, text):
        """The functions that PostgreSQL's parse analysis finds in a SELECT: (schema, name, volatility, is built in)."""
        body = re.sub(r";\s*\Z", "", text)
        self.run(b"ROLLBACK; BEGIN")
        code, _ = self.run(f"CREATE FUNCTION pg_temp.looked_into() RETURNS void BEGIN ATOMIC {body}\n; END")
        if code is not None:
            return None
        _, tree = self.run(b"SELECT prosqlbody FROM pg_catalog.pg_proc WHERE proname = 'looked_into'")
        tree = tree.get_value(0, 0).decode()
        functions = set(re.findall(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)", tree)) - {"0"}
        operators = set(re.findall(r":opno (\d+)", tree)) - {"0"}
        types = set(re.findall(r":(?:resulttype|funcresulttype|consttype|vartype) (\d+)", tree))
        _, rows = self.run(f"""SELECT p.oid, p.pronamespace::regnamespace, p.proname, p.provolatile FROM pg_catalog.pg_proc p
            WHERE p.oid IN ({",".join(functions | {"0"})}) OR p.oid IN
                (SELECT oprcode FROM pg_catalog.pg_operator WHERE oid IN ({",".join(operators | {"0"})}))""")
        found = [tuple(rows.get_value(row, at).decode() for at in range(4)) for row in range(rows.ntuples)]
        if any(int(one) >= 16384 for one in types):
            found.append(("99999", "user", "a type of a user's", "v"))
        return found


def is_harmless(call):
    oid, _, name, volatility = call
    if int(oid) >= 16384 or EFFECTS_STABLE.search(name):
        return False
    return volatility in "is" or name in HARMLESS_VOLATILE


def is_select(answer):
    return [operation["kind"] for operation in answer["operations"]] == ["select"]


def main():
    (all_texts, databases), (ddl, _), (mod, _) = (logged(level) for level in ("all", "ddl", "mod"))
    for text in ddl:
        mod.pop(text, None)
    judgements = judged(list(dict.fromkeys([*all_texts, *ddl, *mod])))
    below, met = below_the_log(judgements, ddl, mod)

    servers = {name: Server(name) for name in ("regression", "contrib")}
    reads = [text for text in all_texts if judgements[text]["effect"] == "read"]
    outcomes, found, through_catalogue = {}, [], []
    for text in reads:
        kinds = {operation["kind"] for operation in judgements[text]["operations"]}
        if kinds & {"begin", "start transaction", "commit", "rollback", "savepoint", "release", "discard", "discard all"}:
            continue
        name = databases[text]
        server = servers[name]
        code, changed = server.read_only(text, forget=kinds != {"select"})
        outcomes[text] = code
        if code == "25006" or changed:
            calls = server.calls(text) if kinds == {"select"} else None
            user = [f"{schema}.{function}" for oid, schema, function, _ in calls or () if int(oid) >= 16384]
            entry = {"text": text, "database": name, "sqlstate": code, "changed": changed, "calls": user}
            (through_catalogue if user else found).append(entry)

    plain, above, unknown_calls = 0, collections.defaultdict(list), 0
    for text in all_texts:
        answer = judgements[text]
        if not is_select(answer):
            continue
        if answer["effect"] == "read":
            # Its outcome is known; only what runs counts.
            if outcomes.get(text, "none") is not None:
                continue
        server = servers[databases[text]]
        if answer["effect"] != "read":
            code, changed = server.read_only(text, forget=False)
            if code is not None or changed:
                continue
        calls = server.calls(text)
        if calls is None:
            unknown_calls += 1
        elif all(is_harmless(call) for call in calls):
            plain += 1
            if answer["effect"] != "read":
                reason = answer["operations"][0]["reason"] or ""
                above[f"{answer['effect']}: {reason}"].append(text)
    over = sum(map(len, above.values()))
    print(json.dumps({
        "messages": sum(all_texts.values()), "texts": len(all_texts),
        "statements": sum(len(judgements[text]["operations"]) for text in all_texts),
        "ddl": len(ddl), "mod": len(mod), "reads": len(reads),
        "reads_run": sum(code is None for code in outcomes.values()),
        "exceptions": met, "below_the_log": below, "below_the_effect": found, "through_catalogue": through_catalogue,
        "unchanged": sum(server.unchanged for server in servers.values()),
        "plain_selects": plain, "above_read": over, "not_analysed": unknown_calls,
        "reasons": {reason: [len(texts), texts[:3]] for reason, texts in sorted(above.items(), key=lambda one: -len(one[1]))},
        "effects": collections.Counter(judgements[text]["effect"] for text in all_texts),
    }))


main()
