# Runs as the agent: asks one driver's statements, while a relay below the driver keeps every byte that comes back.
# sys.argv: host, port, driver, statements, file for the bytes, folder for the socket.
import asyncio, json, os, re, socket, subprocess, sys, threading

HOST, PORT, DRIVER, NUMBER, KEPT, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6]
DATABASE = "secrets"
os.environ["HOME"] = "/"
kept = open(KEPT, "wb", buffering=0)
lock = threading.Lock()
outcomes = []


def relay():
    """A socket in a folder that drivers connect to; what comes back from the server's address is kept, then handed on."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{FOLDER}/.s.PGSQL.{PORT}")
    listener.listen(20)

    def pump(source, target, keep):
        try:
            while piece := source.recv(65536):
                if keep:
                    with lock:
                        kept.write(piece)
                target.sendall(piece)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept():
        while True:
            near, _ = listener.accept()
            far = socket.create_connection((HOST, PORT), timeout=None)
            threading.Thread(target=pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, True), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


def keep(*values):
    """What a driver made of it: notices, errors and columns have texts of their own."""
    with lock:
        kept.write("\n".join(map(repr, values)).encode("utf-8", "backslashreplace") + b"\n")


# After code that nobody saw, and after a parameter was set, the next statements get a session of their own.
def is_code(group):
    return any(re.match(r"(?i)\s*(DO|CALL)\b", sql) or "set_config" in sql for sql in group)


def raw(groups, binary):
    connection = None
    for group in groups:
        if connection is None:
            connection = Raw(DATABASE)
        for sql in group:
            try:
                messages = connection.extended(sql, binary=True) if binary else connection.query(sql)
            except (OSError, EOFError):
                outcomes.append("lost")
                kept.write(connection.received)
                connection = None
                break
            outcomes.append(sqlstate(messages))
        if connection:
            kept.write(connection.received)
            connection.received.clear()
            if status(messages) != "I" or is_code(group):
                connection.socket.close()
                connection = None


def psql(groups):
    for start in range(0, len(groups), 40):
        text = "".join("".join(sql + "\n;\n" for sql in group) + "ROLLBACK;\nRESET ALL;\n" for group in groups[start:start + 40])
        how = [[], ["--expanded"], ["--set=FETCH_COUNT=3"], ["--csv"]][start // 40 % 4]
        done = subprocess.run(["psql", "--no-psqlrc", "--set=VERBOSITY=verbose", "--set=SHOW_CONTEXT=always", *how,
                               f"host={FOLDER} port={PORT} user=agent dbname={DATABASE}"], input=text.encode(), capture_output=True)
        with lock:
            kept.write(done.stdout + done.stderr)
        failed = re.findall(r"^(?:ERROR|FATAL):  (\w{5}):", done.stderr.decode("utf-8", "replace"), re.M)
        outcomes.extend(failed)
        outcomes.extend([None] * max(0, sum(map(len, groups[start:start + 40])) - len(failed)))


def psycopg3(groups, binary):
    import psycopg
    connection = None
    for group in groups:
        if connection is None or connection.closed:
            connection = psycopg.connect(host=FOLDER, port=PORT, user="agent", dbname=DATABASE, autocommit=True)
            connection.add_notice_handler(lambda diag: keep(*[getattr(diag, n) for n in dir(diag) if n[0] != "_"]))
            connection.add_notify_handler(keep)
        for sql in group:
            try:
                if sql.upper().startswith("COPY"):
                    with connection.cursor() as cursor, cursor.copy(sql) as copy:
                        for piece in copy:
                            keep(bytes(piece))
                else:
                    cursor = connection.execute(sql, prepare=True, binary=binary)
                    if cursor.description:
                        keep(cursor.description)
                        try:
                            keep(cursor.fetchall())
                        except (ValueError, psycopg.DataError) as error:
                            keep(error)
                outcomes.append(None)
            except psycopg.Error as error:
                keep(error, *[getattr(error.diag, n) for n in dir(error.diag) if n[0] != "_"])
                outcomes.append(error.sqlstate or "driver")
        if not connection.closed and (connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE or is_code(group)):
            connection.close()


def psycopg2(groups):
    import psycopg2
    connection = None
    for group in groups:
        if connection is None or connection.closed:
            connection = psycopg2.connect(host=FOLDER, port=PORT, user="agent", dbname=DATABASE)
            connection.autocommit = True
        for at, sql in enumerate(group):
            try:
                with connection.cursor() as cursor:
                    if sql.upper().startswith("COPY"):
                        with open(os.devnull, "wb") as nowhere:
                            cursor.copy_expert(sql, nowhere)
                    else:
                        cursor.execute(sql)
                        if cursor.description:
                            keep(cursor.description, cursor.fetchall())
                outcomes.append(None)
            except (psycopg2.Error, ValueError) as error:
                keep(error)
                outcomes.append(getattr(error, "pgcode", None) or "driver")
        keep(connection.notices, connection.notifies)
        if len(group) == 1 and group[0].startswith(("SELECT", "WITH")) and not connection.closed:
            connection.autocommit = False
            try:
                with connection.cursor("by_name") as cursor:
                    cursor.itersize = 2
                    cursor.execute(group[0])
                    keep(list(cursor))
            except (psycopg2.Error, ValueError) as error:
                keep(error)
            connection.rollback()
            connection.autocommit = True
        if not connection.closed and (connection.info.transaction_status or is_code(group)):
            connection.close()


async def one(connection, sql):
    """One statement; COPY has calls of its own."""
    query = re.match(r"(?s)COPY \((.*)\) TO STDOUT", sql)
    table = re.match(r"COPY (\w+)(?: \(([^)]*)\))? TO STDOUT", sql)
    with open(os.devnull, "wb") as nowhere:
        if query:
            await connection.copy_from_query(query[1], output=nowhere)
        elif table:
            columns = [column.strip() for column in table[2].split(",")] if table[2] else None
            await connection.copy_from_table(table[1], columns=columns, output=nowhere, format="binary")
        else:
            statement = await connection.prepare(sql)
            keep(statement.get_attributes())
            keep(await statement.fetch())


async def asyncpg(groups):
    import asyncpg
    connection = None
    for group in groups:
        if connection is None or connection.is_closed():
            connection = await asyncpg.connect(host=FOLDER, port=PORT, user="agent", database=DATABASE, ssl=False)
            connection.add_log_listener(lambda _, message: keep(message.as_dict()))
        for sql in group:
            try:
                await asyncio.wait_for(one(connection, sql), 30)
                outcomes.append(None)
            except asyncio.TimeoutError:
                outcomes.append("driver")
                connection.terminate()
            except asyncpg.PostgresError as error:
                keep(error.as_dict())
                outcomes.append(error.sqlstate)
            except (asyncpg.InterfaceError, asyncpg.InternalClientError, TypeError, ValueError, OSError, BufferError) as error:
                keep(error)
                outcomes.append("driver")
        if not connection.is_closed() and (connection.is_in_transaction() or is_code(group)):
            await connection.close()


def main():
    if DRIVER in ("oracles", "twins"):
        print(json.dumps({"oracles": oracles, "twins": twins}[DRIVER](NUMBER)))
        return
    groups = {"code": CODE, "unseen": UNSEEN}.get(DRIVER) or script(DRIVER, NUMBER, without=("enum",) if DRIVER == "asyncpg" else ())
    relay()
    {
        "code": lambda: raw(groups, False), "unseen": lambda: raw(groups, False), "raw-query": lambda: raw(groups, False), "raw-binary": lambda: raw(groups, True), "psql": lambda: psql(groups),
        "psycopg-text": lambda: psycopg3(groups, False), "psycopg-binary": lambda: psycopg3(groups, True),
        "psycopg2": lambda: psycopg2(groups), "asyncpg": lambda: asyncio.run(asyncpg(groups)),
    }[DRIVER]()
    told = {"driver": DRIVER, "statements": sum(map(len, groups)), "distinct": len({sql for group in groups for sql in group}),
            "answered": outcomes.count(None), "denied": outcomes.count("42501"), "codes": {code: outcomes.count(code) for code in set(outcomes) if code}}
    print(json.dumps(told))


main()
