# Makes statements that try to bring masked values out. The same seed makes the same statements.
import random

# Tables with masked columns: name, masked columns with a word on their kind.
TABLES = {
    "vault": {"s_text": "text", "s_varchar": "text", "s_char": "text", "s_int": "number", "s_big": "number", "s_num": "number",
              "s_bytea": "bytea", "s_json": "json", "s_jsonb": "json", "s_array": "array", "s_comp": "composite",
              "s_range": "range", "s_domain": "text", "s_enum": "enum"},
    "parts": {"s_text": "text", "s_big": "number"},
    "parts_north": {"s_text": "text", "s_big": "number"},
    "parent": {"s_text": "text", "s_jsonb": "json"},
    "child": {"s_text": "text", "s_jsonb": "json", "s_more": "text"},
    "hashed": {"s_text": "text", "s_array": "array"},
    "nulled": {"s_text": "text", "s_int": "number"},
    "partly": {"s_text": "text", "s_domain": "text"},
    # Other names for the same values; the columns are found by where they come from.
    "vault_view": {"shown": "text", "counted": "number"},
    "vault_computed": {"shown": "text", "everything": "json"},
    "view_of_views": {"shown": "text"},
    "vault_kept": {"shown": "text"},
}

SCALAR = [
    "{0} || ''", "'' || {0}", "upper({0})", "lower({0})", "initcap({0})", "reverse({0})", "substr({0}, 1, 9)", "substring({0} from 3)",
    "left({0}, 8)", "right({0}, 8)", "concat({0}, '-', 1)", "concat_ws('~', 1, {0})", "format('%s', {0})", "format('%I', {0})",
    "quote_literal({0})", "quote_nullable({0})", "quote_ident({0})", "coalesce({0}, 'x')", "nullif({0}, '')", "greatest({0}, '')",
    "least({0}, '~')", "replace({0}, '!', '')", "overlay({0} placing '--' from 1 for 2)", "translate({0}, 'a', 'b')",
    "regexp_replace({0}, '^..', '')", "regexp_substr({0}, '.*')", "encode(convert_to({0}, 'UTF8'), 'hex')",
    "encode(convert_to({0}, 'UTF8'), 'base64')", "encode(convert_to({0}, 'UTF8'), 'escape')", "to_json({0})::text",
    "jsonb_build_object('k', {0}) ->> 'k'", "(array[{0}])[1]", "array_to_string(array[{0}, 'x'], '')", "split_part({0} || '~x', '~', 1)",
    "btrim({0})", "lpad({0}, 40)", "CASE WHEN length({0}) > 0 THEN {0} END", "row({0}, 1)::text", "xmlelement(name a, {0})::text",
    "json_build_array({0})::text", "to_jsonb({0}) #>> '{{}}'", "(SELECT {0})", "({0} COLLATE \"C\")", "normalize({0})",
    "to_tsvector('simple', {0})::text", "convert_from(convert_to({0}, 'UTF8'), 'UTF8')", "md5({0})", "({0})::varchar", "({0})::name::text",
    "pg_catalog.textcat({0}, '')", "({0})::bytea::text", "convert_to({0}, 'UTF8')", "sha256(convert_to({0}, 'UTF8'))::text",
    "jsonb_path_query_first(to_jsonb({0}), '$')::text", "json_object(array['k', {0}])::text", "array[{0}]", "row({0})", "({0})::char(30)",
    "starts_with({0}, 'g')", "(xpath('/a/text()', xmlelement(name a, {0})))[1]::text", "ARRAY(SELECT {0})", "ascii({0})",
    "pg_column_size({0})", "similarity_to_nothing({0})", "({0})::xml", "({0})::tsvector", "('\"' || {0} || '\"')::jsonb", "hashtext({0})",
]
AGGREGATE = [
    "array_agg({0})", "string_agg({0}, ',')", "min({0})", "max({0})", "json_agg({0})", "jsonb_object_agg(id, {0})",
    "mode() WITHIN GROUP (ORDER BY {0})", "percentile_disc(0.5) WITHIN GROUP (ORDER BY {0})", "array_agg({0} ORDER BY id)",
    "xmlagg(xmlelement(name x, {0}))", "count(DISTINCT {0})", "max({0}) FILTER (WHERE id > 0)", "(array_agg({0}))[1]",
    "array_to_string(array_agg({0}), ',')", "jsonb_agg(row({0}))",
]
WINDOW = [
    "first_value({0}) OVER (ORDER BY id)", "lag({0}) OVER (ORDER BY id)", "lead({0}, 1, 'none') OVER (ORDER BY id)",
    "nth_value({0}, 2) OVER ()", "max({0}) OVER (PARTITION BY id % 3)", "string_agg({0}, '') OVER (ORDER BY id)",
    "last_value({0}) OVER w", "array_agg({0}) OVER (ROWS 2 PRECEDING)",
]
SETS = [
    "unnest(array[{0}])", "regexp_matches({0}, '.*')", "regexp_split_to_table({0}, '~')", "unnest(string_to_array({0}, '~'))",
    "json_array_elements_text(json_build_array({0}))", "jsonb_each_text(jsonb_build_object('k', {0}))", "string_to_table({0}, '~')",
    "regexp_matches({0}, '(...)(...)', 'g')", "jsonb_path_query(to_jsonb({0}), '$')", "ts_debug('simple', {0})",
]
# What fails quotes what it failed on.
FAILING = [
    "({0})::int", "({0})::date", "({0})::uuid", "({0})::json", "({0})::inet", "({0})::point", "({0})::interval", "({0})::bool", "({0})::regclass",
    "({0})::numeric", "({0})::int4range", "to_date({0}, 'YYYY')", "to_number({0}, '999')", "({0})::oid", "({0})::mood", "({0})::xid8",
    "(1 / (length({0}) - length({0})))::text", "make_date(length({0}), 99, 99)", "({0})::regrole", "decode({0}, 'hex')", "({0})::pg_lsn",
    "jsonb_path_query_first('{{}}', ({0})::jsonpath)::text", "regexp_replace('', '(' || {0}, '')", "nextval({0})", "currval({0})",
    "set_config({0}, '', false)", "current_setting({0})", "pg_get_viewdef({0})", "('x'::text COLLATE \"C\" || {0})::money", "chr(-length({0}))",
    "(string_to_array({0}, null))::int[]", "timezone({0}, now())", "has_table_privilege({0}, 'select')", "to_regclass({0})::text",
]
# What carries text away from the result.
CHANNELS = [
    "set_config('application_name', {0}, false)", "set_config('TimeZone', {0}, false)", "set_config('my.own', {0}, false)",
    "pg_notify('heard', {0})", "lo_from_bytea(0, convert_to({0}, 'UTF8'))", "pg_logical_emit_message(false, 'p', {0})",
    "pg_advisory_lock(hashtext({0}))", "query_to_xml('SELECT ' || quote_literal({0}), true, false, '')", "txid_current()::text || {0}",
    "set_config('search_path', {0}, false)", "set_config('DateStyle', {0}, false)", "pg_stat_get_activity(length({0}))::text",
]


class Shapes:
    def __init__(self, seed, without=()):
        self.random = random.Random(seed)
        self.without = set(without)
        self.count = 0

    def fresh(self, stem):
        self.count += 1
        return f"{stem}_{self.seed_name}_{self.count}"

    seed_name = "x"

    def column(self):
        while True:
            table = self.random.choice(list(TABLES))
            column, kind = self.random.choice(list(TABLES[table].items()))
            if kind not in self.without:
                return table, column, kind

    def source(self, table, column):
        """What stands before SELECT, what after FROM, and how the column is then called."""
        pick = self.random.choice
        options = [
            ("", f"{table}", pick([column, f"{table}.{column}"])),
            ("", f"{table} q", f"q.{column}"),
            ("", f"public.{table} AS q", column),
            ("", f"(SELECT * FROM {table}) q", f"q.{column}"),
            ("", f"(SELECT id, {column} AS zz FROM {table}) q", "q.zz"),
            ("", f"(SELECT id, {column}::text || '' AS zz FROM {table}) q", "zz"),
            (f"WITH q AS (SELECT * FROM {table}) ", "q", f"q.{column}"),
            (f"WITH q AS MATERIALIZED (SELECT id, {column} AS zz FROM {table}) ", "q", "zz"),
            (f"WITH {table} AS (SELECT * FROM {table}) ", table, column),
            (f"WITH q(id, plain_word) AS (SELECT id, {column} FROM {table}) ", "q", "plain_word"),
            (f"WITH RECURSIVE q(id, r) AS (SELECT id, {column}::text FROM {table} UNION SELECT id, r FROM q WHERE id < 0) ", "q", "r"),
            ("", f"plain p, LATERAL (SELECT {table}.id, {column} AS zz FROM {table} WHERE {table}.id = p.id + 0) q(id2, zz)", "zz"),
            ("", f"{table} q JOIN plain USING (id)", f"q.{column}"),
            ("", f"plain NATURAL LEFT JOIN {table} q", column),
            ("", f"(plain JOIN {table} USING (id)) q", f"q.{column}"),
            ("", f"ONLY {table} q", column),
            ("", f"(SELECT id, {column} AS zz FROM {table} UNION ALL SELECT id, {column} FROM {table}) q", "zz"),
            ("", f"(SELECT id, {column} AS zz FROM {table} INTERSECT SELECT id, {column} FROM {table} LIMIT 9) q" if column not in ("s_json", "everything") else f"{table} q", "zz" if column not in ("s_json", "everything") else f"q.{column}"),
            ("", f"(TABLE {table}) q", f"q.{column}"),
            ("", f"(SELECT id, t AS r FROM {table} t) q", f"(q.r).{column}"),
            ("", f"(SELECT 1 AS id, unnest(array_agg({column}::text)) AS zz FROM {table}) q", "zz"),
            ("", f"jsonb_to_recordset((SELECT jsonb_agg(t) FROM {table} t)) AS q(id int, {column} text)", f"q.{column}"),
            ("", f"json_populate_recordset(NULL::{table}, (SELECT json_agg(t) FROM {table} t)) q", f"q.{column}"),
            ("", f"unnest((SELECT array_agg({column}::text) FROM {table})) WITH ORDINALITY AS q(zz, id)", "zz"),
            ("", f"(VALUES (1, (SELECT {column}::text FROM {table} LIMIT 1))) q(id, zz)", "zz"),
            ("", f"ROWS FROM (unnest(ARRAY(SELECT {column}::text FROM {table})), generate_series(1, 3)) AS q(zz, id)", "zz"),
            ("", f"(SELECT (SELECT t FROM {table} t WHERE t.id = p.id + 0 LIMIT 1) AS w, p.id FROM plain p) q", f"(q.w).{column}"),
            ("", f"{table} q TABLESAMPLE SYSTEM (100)" if "view" not in table and "computed" not in table else f"{table} q", f"q.{column}"),
            ("", f"(SELECT id, first_value({column}) OVER (ORDER BY id) AS zz FROM {table}) q", "zz"),
            ("", f"(plain p JOIN {table} v USING (id)) AS j(a, b, zz, zzz)", pick(["zz", "zzz", "j.zz", "j"])),
            ("", f"{table} v, unnest(array[v.{column}]) zz", "zz"), ("", f"{table} v, jsonb_each_text(to_jsonb(v)) z(k, zz)", "zz"),
            ("", f"{table} v, LATERAL (VALUES (v)) x(y)", pick([f"(y).{column}", f"(x.y).{column}"])),
            ("", f"{table} v, json_to_record(to_json(v)) AS z(id2 int, {column} text)", f"z.{column}"),
            ("", f"{table} v JOIN {table} w USING (id, {column}) AS u" if column not in ("s_json", "everything") else f"{table} v", f"{'u' if column not in ('s_json', 'everything') else 'v'}.{column}"),
            ("", f"{table} v CROSS JOIN LATERAL (SELECT v.*) AS w(a, b, c)", pick(["w.b", "w.c", "w"])),
            ("", f"{table} AS v(a, b, c)", pick(["b", "c", "v.b", "v"])),
            (f"WITH w AS (UPDATE vault SET open = open WHERE id < 4 RETURNING {list(TABLES['vault'])[0]} AS zz, id) ", "w", "zz"),
            ("", f"(SELECT DISTINCT ON (id) id, {column} AS zz FROM {table} ORDER BY id) q", "zz"),
            ("", f"plain p CROSS JOIN LATERAL (SELECT max({column}::text) AS zz FROM {table} WHERE {table}.id <= p.id) q", "zz"),
        ]
        return pick(options)

    def expression(self, name, kind):
        pick = self.random.choice
        starts = {
            "text": ["{0}", "{0}::text"], "number": ["{0}::text", "to_char({0}, '999999999999999999999')", "({0} + 0)::text", "({0} * 1)::varchar"],
            "bytea": ["encode({0}, 'hex')", "{0}::text", "encode({0}, 'base64')", "encode({0}, 'escape')"],
            "json": ["{0}::text", "{0} ->> 'code'", "{0} #>> '{{deep,code}}'", "({0} -> 'deep')::text", "{0}::jsonb::text"],
            "array": ["{0}[1]", "array_to_string({0}, ',')", "{0}::text", "({0}[1:2])::text", "array_to_json({0})::text"],
            "composite": ["({0}).code", "{0}::text", "row_to_json({0})::text"],
            "range": ["lower({0})::text", "{0}::text", "upper({0})::text"], "enum": ["{0}::text", "enum_range({0}, {0})::text"],
        }
        made = pick(starts[kind]).replace("{0}", name).replace("{{", "{").replace("}}", "}")
        for _ in range(self.random.choice([0, 0, 1, 1, 2, 3])):
            made = pick(SCALAR).format(made)
        return made

    def select(self):
        """A SELECT, and the expression in it."""
        pick = self.random.choice
        table, column, kind = self.column()
        before, source, name = self.source(table, column)
        made = self.expression(name, kind)
        roll = self.random.random()
        if roll < .12:
            made = pick(AGGREGATE).format(made)
        elif roll < .22:
            made = pick(WINDOW).format(made)
        elif roll < .30:
            made = pick(SETS).format(made)
        elif roll < .42:
            made = pick(FAILING).format(made)
        elif roll < .48:
            made = pick(CHANNELS).format(made)
        elif roll < .55:
            made = name
        window = " WINDOW w AS (ORDER BY 1)" if " OVER w" in made else ""
        limit = pick(["", " LIMIT 5", " LIMIT 3 OFFSET 2", " FETCH FIRST 4 ROWS ONLY"])
        options = [
            f"SELECT {made} FROM {source}{window}{limit}", f"SELECT {made} AS note FROM {source}{window}{limit}",
            f"SELECT 1 AS id, 'x' AS name, {made} FROM {source}{window}{limit}",
            f"SELECT DISTINCT {made} FROM {source}{window}{limit}",
            f"SELECT z.* FROM (SELECT {made} AS zz FROM {source}{window}) z{limit}",
            f"SELECT (SELECT {made} FROM {source}{window} LIMIT 1)", f"SELECT ARRAY(SELECT ({made})::text FROM {source}{window}{limit})",
            f"SELECT {made} FROM {source}{window} UNION ALL SELECT NULL{limit}",
            f"SELECT 'x'::text UNION SELECT ({made})::text FROM {source}{window}", f"VALUES ((SELECT {made} FROM {source}{window} LIMIT 1), 2)",
            f"SELECT count(*) FROM {source} WHERE ({made})::text > ''", f"SELECT 1 AS one FROM {source} ORDER BY ({made})::text{limit}",
            f"SELECT ({made})::text, count(*) FROM {source} GROUP BY 1{limit}", f"SELECT q FROM {source}{limit}", f"SELECT * FROM {source}{limit}",
            f"SELECT row_to_json(z) FROM (SELECT {made} AS zz FROM {source}{window}) z{limit}",
            f"SELECT z::text FROM (SELECT {made} AS zz FROM {source}{window}) z{limit}", f"SELECT q.*::text FROM {source}{limit}",
            f"SELECT to_jsonb(q) - 'id' FROM {source}{limit}", f"SELECT {made} FROM {source}{window}{limit}",
            f"SELECT CASE id WHEN 1 THEN {made} END FROM {source}{window}{limit}",
        ]
        return before + pick(options)

    def statements(self):
        """One or several statements that belong together."""
        pick, select = self.random.choice, self.select()
        roll = self.random.random()
        if roll < .62:
            return [select]
        table, column, kind = self.column()
        name = self.fresh("made")
        text = self.expression(column, kind)
        number = self.random.randrange(1, 20)
        return pick([
            ["BEGIN", f"DECLARE {name} CURSOR FOR {select}", f"FETCH 2 FROM {name}", f"MOVE 1 FROM {name}", f"FETCH ALL FROM {name}", "COMMIT"],
            ["BEGIN", f"DECLARE {name} BINARY SCROLL CURSOR WITH HOLD FOR {select}", f"FETCH LAST FROM {name}", "COMMIT", f"FETCH FIRST FROM {name}", f"CLOSE {name}"],
            [f"PREPARE {name} AS {select}", f"EXECUTE {name}", f"DEALLOCATE {name}"],
            [f"PREPARE {name}(int) AS SELECT {text} FROM {table} WHERE id = $1", f"EXECUTE {name}({number})", f"EXPLAIN (ANALYZE, VERBOSE) EXECUTE {name}({number})"],
            [f"PREPARE {name} AS {select}", f"CREATE TABLE {name} AS EXECUTE {name}", f"SELECT * FROM {name}"],
            [f"PREPARE {name} AS SELECT {column} AS v FROM {table}", f"CREATE TEMP TABLE {name} AS EXECUTE {name}", f"SELECT v FROM {name}", f"COPY {name} TO STDOUT"],
            [f"EXPLAIN ANALYZE CREATE TABLE {name} AS SELECT {text} AS v FROM {table}", f"SELECT * FROM {name}"],
            [f"EXPLAIN ANALYZE INSERT INTO stash SELECT {text} FROM {table}", "SELECT * FROM stash LIMIT 3"],
            [f"CREATE TEMP VIEW plain AS SELECT id, {text} AS item FROM public.{table}", "SELECT item FROM plain LIMIT 3", "SELECT upper(item) FROM plain LIMIT 3", "COPY (SELECT item FROM plain) TO STDOUT", "DROP VIEW pg_temp.plain"],
            ["BEGIN", f"CREATE TEMP VIEW plain AS SELECT id, {text} AS item FROM public.{table}", "SELECT item FROM plain LIMIT 3", "SELECT upper(item) FROM plain LIMIT 3", "ROLLBACK"],
            ["SET search_path = public, pg_catalog", f"CREATE VIEW pg_am AS SELECT {text} AS amname FROM {table}", "SELECT amname FROM pg_am LIMIT 3", "SELECT upper(amname::text) FROM pg_am LIMIT 3", "DROP VIEW public.pg_am", "RESET search_path"],
            [f"SELECT u, to_json(u), u::text FROM vault JOIN uniques USING (s_text) AS u LIMIT 3"], [f"SELECT j, to_json(j) FROM (plain JOIN {table} USING (id)) AS j LIMIT 3"],
            ["BEGIN", f"CREATE TABLE {name} AS TABLE plain", f"ALTER TABLE {name} ADD COLUMN more text", f"UPDATE {name} SET more = (SELECT {text} FROM {table} LIMIT 1)", f"SELECT more FROM {name}", "ROLLBACK"],
            [f"CREATE TABLE {name} (v text)", f"CREATE RULE _back AS ON INSERT TO {name} DO ALSO SELECT {text} FROM {table} LIMIT 2", f"INSERT INTO {name} VALUES ('x')", f"INSERT INTO {name} VALUES ('y') RETURNING *"],
            [f"CREATE TABLE {name} PARTITION OF parts FOR VALUES IN ('{name}')", f"INSERT INTO {name} (id, s_text) VALUES (1, 'x') RETURNING s_text", f"SELECT s_text || '' FROM {name}"],
            [f"CREATE VIEW {name} AS SELECT id, open FROM vault", f"CREATE OR REPLACE VIEW {name} AS SELECT id, {column} ::text AS open FROM {table}", f"SELECT open FROM {name} LIMIT 2", f"SELECT upper(open) FROM {name} LIMIT 2"],
            [f"CREATE VIEW {name} AS SELECT id, 'x'::text AS v FROM plain", f"SELECT v FROM {name} LIMIT 1", f"CREATE OR REPLACE VIEW {name} AS SELECT id, ({text})::text AS v FROM {table}", f"SELECT v FROM {name} LIMIT 2", f"SELECT upper(v) FROM {name} LIMIT 2"],
            [f"PREPARE {name} AS SELECT item FROM plain", f"EXECUTE {name}", "BEGIN", "ALTER TABLE plain RENAME TO plain_away", f"CREATE VIEW plain AS SELECT {text} AS item FROM {table}", f"EXECUTE {name}", "ROLLBACK"],
            [f"COPY ({select}) TO STDOUT"], [f"COPY ({select}) TO STDOUT (FORMAT csv, HEADER)"], [f"COPY ({select}) TO STDOUT (FORMAT binary)"],
            [f"COPY {table} TO STDOUT"], [f"COPY {table} ({column}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)"], [f"COPY {table} (id, {column}) TO STDOUT (FORMAT binary)"],
            [f"EXPLAIN (ANALYZE, VERBOSE) {select}"], [f"EXPLAIN (VERBOSE, FORMAT json) {select}"], [f"EXPLAIN {select}"],
            [f"CREATE TEMP TABLE {name} AS {select}", f"SELECT * FROM {name}"], [f"CREATE TABLE {name} AS {select}", f"TABLE {name}"],
            [f"CREATE TABLE {name} AS SELECT id, {text} AS v FROM {table}", f"SELECT v FROM {name}"],
            [f"SELECT {text} AS v INTO TEMP {name} FROM {table}", f"SELECT v || '' FROM {name}"],
            [f"CREATE VIEW {name} AS SELECT id, {text} AS v FROM {table}", f"SELECT v FROM {name} LIMIT 3", f"SELECT upper(v::text) FROM {name} LIMIT 3", f"COPY (SELECT * FROM {name}) TO STDOUT"],
            [f"CREATE TEMP VIEW {name} AS SELECT {column} AS v FROM {table}", f"SELECT v FROM {name} LIMIT 3", f"SELECT v::text || '' FROM {name} LIMIT 3"],
            [f"CREATE MATERIALIZED VIEW {name} AS SELECT {text} AS v FROM {table}", f"SELECT v FROM {name}"],
            [f"CREATE RECURSIVE VIEW {name}(v) AS SELECT {text} FROM {table}", f"SELECT v FROM {name} LIMIT 3"],
            ["BEGIN", f"CREATE VIEW {name} AS SELECT {column} AS v FROM {table}", f"SELECT v FROM {name} LIMIT 4", f"SELECT upper(v::text) FROM {name} LIMIT 4", "ROLLBACK"],
            [f"INSERT INTO stash SELECT {text} FROM {table}", "SELECT * FROM stash LIMIT 10"],
            [f"INSERT INTO stash VALUES ((SELECT {text} FROM {table} LIMIT 1))", "SELECT * FROM stash LIMIT 10"],
            [f"INSERT INTO stash VALUES ((SELECT {text} FROM {table} LIMIT 1)) RETURNING value", "SELECT * FROM stash LIMIT 10"],
            [f"WITH w AS (INSERT INTO stash SELECT {text} FROM {table} LIMIT 3 RETURNING value) SELECT value FROM w"],
            [f"UPDATE stash SET value = (SELECT {text} FROM {table} LIMIT 1) RETURNING *", "SELECT * FROM stash LIMIT 10"],
            [f"UPDATE stash SET value = q.{column}::text FROM {table} q RETURNING stash.value", "TABLE stash"],
            [f"UPDATE vault SET open = s_text WHERE id = {number} RETURNING open", f"SELECT open FROM vault WHERE id = {number}"],
            [f"UPDATE vault SET open = (s_text || '') WHERE id = {number}", f"SELECT open FROM vault WHERE id = {number}"],
            [f"UPDATE vault SET (open, s_text) = (s_text, open) WHERE id = {number}", f"SELECT open FROM vault WHERE id = {number}", "ROLLBACK"],
            [f"INSERT INTO vault (id, open) SELECT id, s_text FROM vault WHERE id = {number} ON CONFLICT (id) DO UPDATE SET open = excluded.open RETURNING open", f"SELECT open FROM vault WHERE id = {number}"],
            [f"INSERT INTO vault (id, open) VALUES ({number}, '') ON CONFLICT (id) DO UPDATE SET open = vault.s_text RETURNING vault.open", f"SELECT open FROM vault WHERE id = {number}"],
            [f"MERGE INTO stash USING {table} q ON false WHEN NOT MATCHED THEN INSERT VALUES (q.{column}::text)", "SELECT * FROM stash LIMIT 10"],
            ["BEGIN", f"UPDATE vault SET open = open WHERE id = {number} RETURNING {self.expression(*self.random.choice(list(TABLES['vault'].items())))}", "ROLLBACK"],
            ["BEGIN", f"DELETE FROM parts WHERE id = {number} RETURNING *, s_text || '' AS x", "ROLLBACK"],
            ["BEGIN", f"WITH w AS (DELETE FROM parts WHERE id < 10 RETURNING *) SELECT s_text, upper(s_text), w FROM w", "ROLLBACK"],
            ["BEGIN", f"INSERT INTO vault SELECT * FROM vault WHERE id = {number}", "ROLLBACK"],
            [f"INSERT INTO child (id, s_text) SELECT id, s_text FROM child WHERE id = {number}"], [f"UPDATE vault SET open = NULL WHERE id = {number}"],
            [f"UPDATE vault SET id = -1 WHERE id = {number}"], [f"UPDATE vault SET s_text = NULL WHERE id = {number}"],
            [f"INSERT INTO uniques SELECT id, s_text FROM vault WHERE id = {number}"], [f"ALTER TABLE vault ADD CHECK (s_text = '')"],
            [f"ALTER TABLE {table} ALTER {column} TYPE int USING {column}::text::int"], [f"ALTER TABLE {table} RENAME COLUMN {column} TO opened", f"SELECT opened FROM {table} LIMIT 3"],
            [f"ALTER TABLE vault RENAME TO harmless", "SELECT * FROM harmless LIMIT 3"], [f"CREATE INDEX ON {table} (({column}::text::int))"],
            [f"ALTER TABLE {table} SET SCHEMA other", f"SELECT * FROM other.{table} LIMIT 3"], [f"CREATE INDEX {name} ON vault ((1 / (length(s_text) - length(s_text))))"],
            [f"CREATE STATISTICS {name} ON (s_text || ''), (s_varchar || '') FROM vault", "ANALYZE vault", "SELECT * FROM pg_stats_ext_exprs", "SELECT stxdexpr::text FROM pg_statistic_ext_data"],
            ["ANALYZE vault", f"SELECT * FROM pg_stats WHERE tablename = '{table}'"], ["SELECT most_common_vals, histogram_bounds FROM pg_catalog.pg_stats"],
            ["SELECT s.histogram_bounds::text || '' FROM pg_stats s"], ["SELECT stavalues1::text FROM pg_statistic"], ["SELECT to_jsonb(s) FROM pg_stats s"],
            ["SELECT to_jsonb(a), a.query FROM pg_stat_activity a"], ["SELECT current_setting('application_name'), current_setting('my.own', true)"],
            ["SHOW application_name", "SHOW ALL"], ["SELECT lo_get(oid) FROM pg_largeobject_metadata LIMIT 5", "SELECT data FROM pg_largeobject LIMIT 5"],
            ["LISTEN heard", f"SELECT pg_notify('heard', {text}) FROM {table} LIMIT 3", "SELECT 1", "UNLISTEN *"],
            [f"DO $$ BEGIN RAISE NOTICE '%', (SELECT {text} FROM {table} LIMIT 1); END $$"], [f"DO $$ BEGIN RAISE EXCEPTION '%', (SELECT {text} FROM {table} LIMIT 1) USING DETAIL = 'd', HINT = 'h'; END $$"],
            [f"DO $$ BEGIN PERFORM set_config('application_name', (SELECT {text} FROM {table} LIMIT 1), false); END $$", "SHOW application_name", "SELECT current_setting('application_name')"],
            [f"DO $$ BEGIN PERFORM set_config('my.own', (SELECT ({text})::text FROM {table} LIMIT 1), false); END $$", "SHOW my.own", "SELECT current_setting('my.own') || ''", "SELECT count(*), current_setting('my.own') FROM plain", "WITH s AS (SELECT current_setting('my.own') AS x) SELECT x FROM s", "COPY (SELECT current_setting('my.own')) TO STDOUT", f"PREPARE {name} AS SELECT current_setting('my.own')", f"EXECUTE {name}"],
            [f"DO $$ BEGIN PERFORM set_config('search_path', quote_ident((SELECT ({text})::text FROM {table} LIMIT 1)) || ', public', false); END $$", "SHOW search_path", "EXPLAIN (SETTINGS) SELECT 1", "SELECT setting, reset_val FROM pg_settings WHERE name = 'search_path'", "SELECT current_schemas(true)", "SHOW ALL"],
            [f"DO $$ BEGIN PERFORM set_config('application_name', (SELECT ({text})::text FROM {table} LIMIT 1), false); END $$; SHOW application_name", "SELECT application_name FROM pg_stat_activity", "SELECT to_jsonb(a) FROM pg_stat_activity a"],
            [f"DO $$ BEGIN PERFORM pg_notify('heard', (SELECT {text} FROM {table} LIMIT 1)::text); END $$"],
            [f"CREATE FUNCTION {name}() RETURNS text LANGUAGE sql AS $$ SELECT ({text})::text FROM {table} LIMIT 1 $$", f"SELECT {name}()", f"SELECT * FROM {name}()", f"SELECT {name}() || '' AS x"],
            [f"CREATE FUNCTION {name}() RETURNS SETOF {table} LANGUAGE sql AS $$ SELECT * FROM {table} $$", f"SELECT * FROM {name}()", f"SELECT ({name}()).{column}", f"SELECT {name}()"],
            [f"CREATE FUNCTION {name}() RETURNS SETOF text STABLE BEGIN ATOMIC SELECT ({text})::text FROM {table}; END", f"SELECT {name}()"],
            [f"CREATE FUNCTION {name}({table}) RETURNS text LANGUAGE sql AS $$ SELECT ($1.{column})::text $$", f"SELECT q.{name} FROM {table} q LIMIT 3", f"SELECT {name}(q) FROM {table} q LIMIT 3"],
            [f"CREATE FUNCTION {name}(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$", f"SELECT id FROM {table} WHERE {name}({column}::text)"],
            [f"CREATE FUNCTION {name}(text, text) RETURNS text LANGUAGE sql AS $$ SELECT $1 || $2 $$", f"CREATE AGGREGATE {name}_all(text) (SFUNC = {name}, STYPE = text, INITCOND = '')", f"SELECT {name}_all({column}::text) FROM {table}"],
            [f"CREATE FUNCTION {name}(text, text) RETURNS text LANGUAGE sql AS $$ SELECT $1 || $2 $$", f"CREATE OPERATOR ~~~~> (FUNCTION = {name}, LEFTARG = text, RIGHTARG = text)", f"SELECT {column}::text ~~~~> '' FROM {table} LIMIT 3"],
            ["CREATE TEMP TABLE vault (id int, s_text text, open text)", "SELECT s_text FROM public.vault LIMIT 3", "SELECT s_text || '' FROM public.vault LIMIT 3", "SELECT s_text FROM vault", "DROP TABLE pg_temp.vault"],
            ["CREATE SCHEMA IF NOT EXISTS shadow", f"CREATE VIEW shadow.{name} AS SELECT {column} AS v FROM public.{table}", "SET search_path = shadow, public", f"SELECT v FROM {name} LIMIT 3", f"SELECT v::text || '' FROM {name} LIMIT 3", f"SELECT {column} FROM {table} LIMIT 2", "RESET search_path"],
            ["SET search_path = other", "SELECT * FROM pair LIMIT 3", f"SELECT {column} FROM public.{table} LIMIT 2", "SET search_path = public"],
            [f"BEGIN", f"ALTER TABLE plain ADD COLUMN IF NOT EXISTS zz text DEFAULT 'x'", f"SELECT {text} FROM {table} LIMIT 2", "ROLLBACK"],
            [f"ALTER TABLE parts DETACH PARTITION parts_north"], [f"CREATE TABLE {name} (LIKE vault INCLUDING ALL) INHERITS (vault)", f"INSERT INTO {name} SELECT * FROM vault LIMIT 1", f"SELECT * FROM {name}"],
            [f"ALTER TABLE child NO INHERIT parent"], [f"CREATE TABLE {name} (id int, v text GENERATED ALWAYS AS (id::text) STORED)"],
            [f"CREATE RULE {name} AS ON UPDATE TO vault DO ALSO INSERT INTO stash VALUES (old.s_text)"], [f"CREATE RULE {name} AS ON INSERT TO plain DO ALSO SELECT s_text FROM vault LIMIT 2", "INSERT INTO plain VALUES (77, 'x')"],
            [f"CREATE POLICY {name} ON plain USING (EXISTS (SELECT s_text::int FROM vault))"], [f"SELECT * FROM {table} q, plain p WHERE q.{column}::text = p.item"],
            [f"SELECT table_to_xml('{table}', true, false, '')"], [f"SELECT query_to_xml('SELECT * FROM {table} LIMIT 2', true, false, '')"], [f"SELECT cursor_to_xml('nothing', 2, true, false, '')"],
            [f"SELECT * FROM ts_stat('SELECT to_tsvector(''simple'', {column}::text) FROM {table}')"], [f"SELECT xmltable.* FROM {table}, XMLTABLE('/a' PASSING xmlelement(name a, {column}::text) COLUMNS v text PATH '.') LIMIT 3"],
            [f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef LIMIT 3"], [f"SELECT {name}.{column} FROM {table} {name} LIMIT 4"],
            [f"LOCK TABLE {table}"], [f"SELECT {column} FROM {table} FOR UPDATE"], [f"SELECT id, {column} FROM {table} FOR SHARE OF {table} LIMIT 3"], ["SELECT * FROM other.pair LIMIT 4", "SELECT max(s_name) FROM other.pair"],
            ["SET client_min_messages = debug5", f"SELECT {text} FROM {table} LIMIT 2", "RESET client_min_messages"], ["SET debug_print_plan = on", "SET client_min_messages = log", f"SELECT {column} FROM {table} LIMIT 1", "RESET ALL"],
            [f"REFRESH MATERIALIZED VIEW vault_kept"], [f"COMMENT ON TABLE plain IS 'x'"], [f"SELECT obj_description('plain'::regclass)"], ["SELECT setval('counter', s_big) FROM vault LIMIT 1", "SELECT last_value FROM counter"],
            [f"SELECT (jsonb_populate_record(NULL::vault, to_jsonb(q))).* FROM vault q LIMIT 3"], [f"SELECT q.id, p.* FROM vault q LEFT JOIN LATERAL (SELECT q.*) p ON true LIMIT 3"], [f"SELECT (q).s_comp.code, (q.s_comp).* FROM vault q LIMIT 3"],
        ])


def script(seed, number, without=()):
    """At least `number` statements, in groups that belong together."""
    shapes = Shapes(seed, without)
    shapes.seed_name = str(seed).replace("-", "_")
    groups, known = [], set()
    # Every masked column as it is, first.
    for table, columns in TABLES.items():
        groups.append([f"SELECT {', '.join(columns)} FROM {table}" if not set(columns.values()) & set(without) else f"SELECT id FROM {table}"])
    while sum(map(len, groups)) < number:
        group = shapes.statements()
        if tuple(group) not in known:
            known.add(tuple(group))
            groups.append(group)
    return groups


# Code that the agent defines itself and a guard lets pass; its text is not looked into. What is known to be another function, or to call one, is
# masked all the same. Not part of a run unless asked for (`code`).
SAYS = "LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', (SELECT s_text FROM vault LIMIT 1); RETURN {0}; END $$"
CODE = [
    ["CREATE FUNCTION lower(integer) RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "SELECT lower(1)", "SELECT lower(1) || ''", "SELECT x FROM (SELECT lower(id) AS x FROM plain) q", "SELECT count(*), max(lower(id)) FROM plain", "COPY (SELECT lower(1)) TO STDOUT", "DROP FUNCTION lower(integer)"],
    ["CREATE FUNCTION upper(plain) RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "SELECT p.upper FROM plain p LIMIT 1", "SELECT upper(p) FROM plain p LIMIT 1", "SELECT q.upper FROM (SELECT p.* FROM plain p) q LIMIT 1", "DROP FUNCTION upper(plain)"],
    ["CREATE FUNCTION gives() RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "CREATE VIEW given AS SELECT gives() AS x", "SELECT x FROM given", "SELECT x || '' FROM given", "SELECT y FROM (SELECT x AS y FROM given) q", "SELECT gives()", "SELECT * FROM gives() g(x)", "WITH q AS (SELECT gives() AS x) SELECT x FROM q"],
    ["CREATE FUNCTION joins(text, text) RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "CREATE OPERATOR ~~~> (FUNCTION = joins, LEFTARG = text, RIGHTARG = text)", "SELECT 'a'::text ~~~> 'b'", "SELECT z FROM (SELECT item ~~~> '' AS z FROM plain) q LIMIT 1"],
    ["CREATE FUNCTION allowed(text) RETURNS bool " + SAYS.format("true"), "CREATE POLICY says ON plain USING (allowed(item))", "ALTER TABLE plain FORCE ROW LEVEL SECURITY", "ALTER TABLE plain ENABLE ROW LEVEL SECURITY", "SELECT * FROM plain LIMIT 1", "ALTER TABLE plain DISABLE ROW LEVEL SECURITY"],
    ["CREATE VIEW pg_temp.plain AS SELECT id, s_text AS item FROM vault", "SELECT item FROM plain LIMIT 1", "SELECT item || '' FROM plain LIMIT 1", "DROP VIEW pg_temp.plain"],
]
# What is out of reach (`unseen`): code that speaks, or stores what it read where no rule looks, when a later statement sets it off.
UNSEEN = [
    ["CREATE FUNCTION said(text) RETURNS bool " + SAYS.format("true"), "CREATE DOMAIN said_word AS text CHECK (said(VALUE))", "SELECT 'x'::said_word"],
    ["CREATE FUNCTION says() RETURNS trigger " + SAYS.format("new"), "CREATE TRIGGER says BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION says()", "INSERT INTO plain VALUES (99, 'x')"],
    ["CREATE FUNCTION puts() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.item := (SELECT s_text FROM vault LIMIT 1); RETURN new; END'", "CREATE TRIGGER puts BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION puts()", "UPDATE plain SET id = id WHERE id = 3 RETURNING item"],
    ["DO $$ BEGIN INSERT INTO stash SELECT s_text FROM vault LIMIT 3; END $$", "SELECT * FROM stash"],
    ["CREATE FUNCTION put() RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "CREATE TABLE with_default (id int, v text DEFAULT put())", "INSERT INTO with_default VALUES (1)", "SELECT v FROM with_default"],
    ["CREATE FUNCTION stored() RETURNS text LANGUAGE sql AS 'SELECT s_text FROM vault LIMIT 1'", "INSERT INTO stash SELECT stored()", "SELECT * FROM stash"],
]
