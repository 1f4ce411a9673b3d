# Asks each oracle twice: with a bound below every masked value and with one above. What is answered differently tells a value by halves.

import re

# Where `E` is an expression over a masked column, `S` what it is read from, and `T` the bound.
CONDITIONS = [
    "SELECT count(*) FROM S WHERE E > T", "SELECT 1 FROM S WHERE id > 0 AND NOT E <= T LIMIT 1", "SELECT count(*) FROM S WHERE E BETWEEN T AND '~~'",
    "SELECT count(*) FILTER (WHERE E > T) FROM S", "SELECT sum(CASE WHEN E > T THEN 1 ELSE 0 END) FROM S", "SELECT bool_or(E > T) IS TRUE FROM S",
    "SELECT 1 / (CASE WHEN max(E) > T THEN 0 ELSE 1 END) FROM S", "SELECT 'x'::text FROM S WHERE 1 / (CASE WHEN E > T THEN 0 ELSE 1 END) > 0",
    "SELECT count(*) FROM (SELECT DISTINCT E > T FROM S UNION ALL SELECT true) z", "SELECT count(*) FROM S GROUP BY E > T ORDER BY 1",
    "SELECT 1 FROM S GROUP BY id HAVING max(E) > T LIMIT 1", "SELECT count(*) FROM (SELECT E AS e FROM S) z WHERE z.e > T",
    "SELECT count(*) FROM (SELECT E FROM S) z(e) WHERE e > T", "SELECT count(*) FROM S JOIN (SELECT T::text AS guess) g ON E > g.guess",
    "SELECT count(*) FROM (VALUES (T)) g(guess) LEFT JOIN (SELECT E AS e FROM S) z ON z.e > guess", "SELECT item FROM plain p WHERE p.id < 3 AND EXISTS (SELECT 1 FROM S WHERE E > T)",
    "SELECT item FROM plain p WHERE p.id < 3 AND T < ANY (SELECT E FROM S)", "SELECT item FROM plain p WHERE p.id < 3 AND (SELECT max(E) FROM S) > T",
    "SELECT item FROM plain p ORDER BY CASE WHEN (SELECT max(E) FROM S) > T THEN id ELSE -id END LIMIT 1", "SELECT id FROM plain LIMIT (SELECT count(*) FROM S WHERE E > T)",
    "SELECT id FROM plain OFFSET (SELECT CASE WHEN max(E) > T THEN 3 ELSE 1 END FROM S)", "SELECT count(*) FROM generate_series(1, (SELECT CASE WHEN max(E) > T THEN 3 ELSE 1 END FROM S))",
    "SELECT count(*) FROM (SELECT E FROM S INTERSECT SELECT E FROM S WHERE E > T) z", "SELECT count(*) FROM (SELECT E FROM S EXCEPT SELECT E FROM S WHERE E > T) z",
    "SELECT 'low' UNION SELECT CASE WHEN E > T THEN 'high' ELSE 'low' END FROM S", "SELECT rank FROM (SELECT rank() OVER (ORDER BY e DESC), e FROM (SELECT E AS e FROM S UNION ALL SELECT T) y) z WHERE e = T",
    "SELECT count(*) FROM (SELECT row_number() OVER (PARTITION BY E > T) AS n FROM S) z WHERE n = 1", "SELECT count(*) FROM S, LATERAL (SELECT E AS e) z WHERE e > T",
    "SELECT count(*) FROM S, LATERAL generate_series(1, (E > T)::int) z", "WITH z(a) AS (SELECT E FROM S) SELECT count(*) FROM z WHERE a > T",
    "WITH z AS MATERIALIZED (SELECT E > T AS yes FROM S) SELECT count(*) FROM z WHERE yes", "WITH RECURSIVE z(a, n) AS (SELECT E, 1 FROM S UNION ALL SELECT a, n + 1 FROM z WHERE n < 2 AND a > T) SELECT count(*) FROM z",
    "SELECT count(*) FROM S WHERE (1, E) > (1, T)", "SELECT count(*) FROM S WHERE E IN (T, 'x') OR E > T", "SELECT 1 FROM S WHERE coalesce(E, '') > T LIMIT 1",
    "UPDATE plain SET id = id WHERE id < 3 AND EXISTS (SELECT 1 FROM S WHERE E > T)", "DELETE FROM plain WHERE id < 0 OR (id < 3 AND EXISTS (SELECT 1 FROM S WHERE E > T))",
    "INSERT INTO plain SELECT 900, 'x' WHERE EXISTS (SELECT 1 FROM S WHERE E > T)", "UPDATE plain SET id = plain.id FROM (SELECT E AS e FROM S) z WHERE z.e > T AND plain.id < 3",
    "MERGE INTO plain USING (SELECT max(E) AS e FROM S) z ON plain.id < 3 AND z.e > T WHEN MATCHED THEN UPDATE SET item = item",
    "COPY (SELECT count(*) FROM S WHERE E > T) TO STDOUT", "COPY (SELECT item FROM plain WHERE EXISTS (SELECT 1 FROM S WHERE E > T)) TO STDOUT (FORMAT csv)",
    "SELECT CASE WHEN max(E) > T THEN '1' ELSE 'x' END::int FROM S", "SELECT ARRAY(SELECT 1 FROM S WHERE E > T)", "SELECT json_agg(1) FROM S WHERE E > T",
    "SELECT z.n FROM (SELECT count(*) AS n FROM S WHERE E > T) z", "VALUES ((SELECT count(*) FROM S WHERE E > T))", "TABLE plain LIMIT (SELECT count(*) FROM S WHERE E > T)",
    "SELECT count(*) FROM S z WHERE z::text > T", "SELECT DISTINCT ON (E > T) 1 FROM S", "SELECT xmlelement(name a, count(*)) FROM S WHERE E > T",
]
# Statements around such a one, each with what it needs before and after.
AROUND = [
    ["Q"], ["Q"], ["Q"], ["BEGIN", "DECLARE k CURSOR FOR Q", "FETCH ALL FROM k", "ROLLBACK"], ["BEGIN", "DECLARE k SCROLL CURSOR FOR Q", "MOVE LAST FROM k", "ROLLBACK"],
    ["PREPARE p AS Q", "EXECUTE p", "DEALLOCATE p"], ["PREPARE p AS Q", "EXPLAIN ANALYZE EXECUTE p", "DEALLOCATE p"], ["EXPLAIN (COSTS off, ANALYZE, TIMING off, SUMMARY off) Q"],
    ["CREATE VIEW asked AS Q", "SELECT count(*) FROM asked", "DROP VIEW asked"], ["CREATE TEMP TABLE asked AS Q", "SELECT count(*) FROM asked", "DROP TABLE asked"],
    ["SELECT count(*) FROM (Q) z"], ["SELECT 1; Q"], ["BEGIN", "Q", "ROLLBACK"], ["SELECT EXISTS (Q)"], ["SELECT 1 / (SELECT count(*) FROM (Q) z)"],
]


def oracle(shapes):
    """What stands before the query, an expression over a masked column, and what it is read from."""
    table, column, kind = shapes.column()
    before, source, name = shapes.source(table, column)
    made = shapes.expression(name, kind)
    while " OVER " in made or "(SELECT" in made:
        made = shapes.expression(name, kind)
    return before, source, f'(({made})::text COLLATE "C")'


def oracles(number):
    shapes = Shapes("oracles")
    shapes.seed_name = "oracles"
    pick = shapes.random.choice
    seen = {"driver": "oracles", "pairs": 0, "refused": 0, "failed": 0, "alike": 0, "told": []}
    connection = None
    for _ in range(number):
        before, source, made = oracle(shapes)
        condition, around = pick(CONDITIONS), pick(AROUND)
        if before and condition.startswith("WITH"):
            before = ""
            source = pick(list(TABLES))
            made = f'(({list(TABLES[source])[0]})::text COLLATE "C")'
        answers = []
        for bound in ("'!'", "'~'"):
            query = before + filled(condition, made, source, bound)
            if connection is None:
                connection = Raw(DATABASE)
            answer = []
            for sql in around:
                text = sql.replace("Q", query) if sql.count("Q") == 1 else sql
                try:
                    messages = connection.query(text)
                except (OSError, EOFError):
                    connection, messages = None, [(b"E", b"lost")]
                    break
                answer.append([(tag, body) for tag, body in messages if tag not in (b"S", b"N")])
            kept.write(repr(answer).encode())
            if connection is not None and status(messages) != "I":
                connection.query("ROLLBACK")
            if connection is not None:
                connection.received.clear()
            answers.append(answer)
        seen["pairs"] += 1
        low, high = ([told(messages) for messages in answer] for answer in answers)
        if low != high:
            seen["told"].append(f"{around} {query}")
        elif any(code == "42501" for code in low):
            seen["refused"] += 1
        elif any(isinstance(code, str) for code in low):
            seen["failed"] += 1
        else:
            seen["alike"] += 1
    seen["told"] = {"number": len(seen["told"]), "first": seen["told"][:8]}
    return seen


def filled(condition, made, source, bound):
    """The condition with its three letters replaced, each where it stands alone."""
    parts = {"E": made, "S": source, "T": bound}
    return re.sub(r"\b[EST]\b", lambda found: parts[found[0]], condition)


def told(messages):
    """What an answer tells: an error's code, or everything but the bound itself."""
    code = sqlstate(messages)
    return code if code else [(tag, body.replace(b"'!'", b"").replace(b"'~'", b"")) for tag, body in messages]


# What differs from one database to the next by itself: numbers that the server counts up, times, its own bookkeeping.
BY_ITSELF = re.compile(r"(?i)txid_current|pg_stat|lo_|largeobject|\bANALYZE\b|regclass|SHOW ALL|pg_settings|pg_attrdef|setval|counter|now\(\)")


def twins(number):
    """The same statements in two databases whose masked values alone differ: every answer has to be the same."""
    groups = script("twins", number)
    first, second = (answered(groups, database) for database in ("secrets", "secrets_twin"))
    seen = {"driver": "twins", "statements": len(first), "refused": 0, "failed": 0, "answered": 0, "told": []}
    for (sql, one), (_, other) in zip(first, second):
        if one != other and not BY_ITSELF.search(sql):
            seen["told"].append(f"{sql} => {str(one)[:120]} | {str(other)[:120]}")
        seen["refused" if one == "42501" else "failed" if isinstance(one, str) else "answered"] += 1
    seen["told"] = {"number": len(seen["told"]), "first": seen["told"][:20]}
    return seen


def answered(groups, database):
    """Each statement with what its answer tells."""
    answers, connection = [], None
    for group in groups:
        for sql in group:
            if connection is None:
                connection = Raw(database)
            try:
                messages = connection.query(sql)
            except (OSError, EOFError):
                answers.append((sql, "lost"))
                connection = None
                continue
            answers.append((sql, sqlstate(messages) or [same(tag, body) for tag, body in messages if tag not in (b"S", b"N")]))
            connection.received.clear()
        # What was prepared, set or begun ends with its group.
        if connection is not None:
            connection.socket.close()
            connection = None
    return answers


def same(tag, body):
    """A message without what belongs to the database: of columns the names, of a notification not who sent it."""
    if tag == b"T":
        names, rest = [], body[2:]
        while rest:
            name, rest = rest.split(b"\0", 1)
            names.append(name)
            rest = rest[18:]
        return tag, names
    return tag, body[4:] if tag == b"A" else body
