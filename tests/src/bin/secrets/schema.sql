-- Tables whose columns s_* hold values that nobody may see. `code(n)` is a value of its own for every n: letters that hold no
-- vowel and no hexadecimal digit, so that nothing else looks like it; `digits(n, length)` likewise, of digits.
CREATE FUNCTION code(salt text, length integer DEFAULT 14) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT string_agg(substr('ghjkmnpqrstvwxyz', 1 + get_byte(sha256(convert_to(salt, 'UTF8')), i) % 16, 1), '' ORDER BY i) FROM generate_series(0, length - 1) i $$;
CREATE FUNCTION digits(salt text, length integer) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT string_agg((1 + get_byte(sha256(convert_to(salt, 'UTF8')), i) % 9)::text, '' ORDER BY i) FROM generate_series(0, length - 1) i $$;
CREATE DOMAIN secret_word AS text CHECK (length(VALUE) > 3);
CREATE TYPE pair AS (code text, number integer);
DO $$ BEGIN EXECUTE (SELECT format('CREATE TYPE mood AS ENUM (%s)', string_agg(quote_literal(code('enum' || n)), ',')) FROM generate_series(1, 400) n); END $$;
CREATE TYPE wordrange AS RANGE (subtype = text);
CREATE TABLE vault (
    id integer PRIMARY KEY, s_text text, s_varchar varchar(40), s_char char(14), s_int integer, s_big bigint, s_num numeric,
    s_bytea bytea, s_json json, s_jsonb jsonb, s_array text[], s_comp pair, s_range wordrange, s_domain secret_word, s_enum mood,
    open text DEFAULT 'open'
);
INSERT INTO vault SELECT n, code('text' || n), code('varchar' || n), code('char' || n), digits('int' || n, 9)::int, digits('big' || n, 18)::bigint,
    digits('num' || n, 20)::numeric, convert_to(code('bytea' || n), 'UTF8'),
    json_build_object('code', code('json' || n), 'deep', json_build_object('code', code('deep' || n))),
    jsonb_build_object('code', code('jsonb' || n), 'deep', jsonb_build_object('code', code('deepb' || n))),
    array[code('array' || n), code('other' || n)], row(code('comp' || n), 1)::pair, wordrange(code('range' || n), code('range' || n) || 'z'),
    code('domain' || n), code('enum' || n)::mood
FROM generate_series(1, 400) n;
CREATE TABLE parts (id integer, region text, s_text text, s_big bigint) PARTITION BY LIST (region);
CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('north');
CREATE TABLE parts_south PARTITION OF parts FOR VALUES IN ('south');
INSERT INTO parts SELECT n, (array['north', 'south'])[1 + n % 2], code('part' || n), digits('partbig' || n, 18)::bigint FROM generate_series(1, 700) n;
CREATE TABLE parent (id integer, s_text text, s_jsonb jsonb);
CREATE TABLE child (s_more text) INHERITS (parent);
INSERT INTO parent SELECT n, code('parent' || n), jsonb_build_object('code', code('parentj' || n), 'deep', 1) FROM generate_series(1, 200) n;
INSERT INTO child SELECT n, code('child' || n), jsonb_build_object('code', code('childj' || n), 'deep', 1), code('more' || n) FROM generate_series(1, 200) n;
CREATE TABLE hashed (id integer PRIMARY KEY, s_text text, s_array text[]);
INSERT INTO hashed SELECT n, code('hashed' || n), array[code('hasheda' || n)] FROM generate_series(1, 200) n;
CREATE TABLE nulled (id integer PRIMARY KEY, s_text text NOT NULL, s_int integer);
INSERT INTO nulled SELECT n, code('nulled' || n), digits('nulledint' || n, 9)::int FROM generate_series(1, 200) n;
-- `partial` shows the last four characters: the rest has to be a secret of its own.
CREATE TABLE partly (id integer PRIMARY KEY, s_text text, s_domain secret_word);
INSERT INTO partly SELECT n, code('partly' || n) || '-end', code('partlyd' || n) || '-end' FROM generate_series(1, 200) n;
CREATE TABLE uniques (id integer PRIMARY KEY, s_text text UNIQUE CHECK (s_text <> ''));
INSERT INTO uniques SELECT id + 1000, s_text FROM vault;
CREATE VIEW vault_view AS SELECT id, s_text AS shown, s_big AS counted FROM vault;
CREATE VIEW vault_computed AS SELECT id, 'word ' || s_varchar AS shown, to_json(v) AS everything FROM vault v;
CREATE VIEW view_of_views AS SELECT max(shown) AS shown, 1 AS id FROM vault_computed;
CREATE MATERIALIZED VIEW vault_kept AS SELECT id, s_text AS shown FROM vault;
CREATE TABLE plain (id integer, item text);
INSERT INTO plain SELECT n, 'item ' || n FROM generate_series(1, 30) n;
CREATE TABLE stash (value text);
CREATE SEQUENCE counter;
CREATE SCHEMA other;
CREATE TABLE other.pair (id integer, s_name text);
CREATE TABLE public.pair_plain (id integer, name text);
INSERT INTO other.pair SELECT n, code('other' || n || 'pair') FROM generate_series(1, 100) n;
GRANT ALL ON DATABASE secrets TO shop_agent;
GRANT ALL ON SCHEMA public, other TO shop_agent;
GRANT pg_read_all_stats TO shop_agent;
DO $$ DECLARE r record; BEGIN
    FOR r IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'other'::regnamespace) AND relkind IN ('r', 'p', 'v', 'm') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO shop_agent', r.name);
    END LOOP;
END $$;
ANALYZE;
