-- What masks have to keep: a masked column in every shape PostgreSQL can give it.
CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    card text NOT NULL UNIQUE,
    ssn text NOT NULL,
    ssn_copy text GENERATED ALWAYS AS (upper('x' || ssn)) STORED
);
INSERT INTO customers
SELECT n, 'Grace ' || n, 'customer' || n || '@example.com',
       (ARRAY['4111 1111 1111 1111','5500 0000 0000 0004','6011 0000 0000 0004'])[n], '918-27-100' || n
FROM generate_series(1, 3) n;
CREATE VIEW contacts AS SELECT id, name, ssn AS note FROM customers;
CREATE VIEW codes AS SELECT id, 'code ' || ssn AS code, row_to_json(customers) AS everything FROM customers;
CREATE VIEW codes_of_codes AS SELECT max(code) AS code FROM codes;
CREATE MATERIALIZED VIEW customers_kept AS SELECT id, ssn AS kept FROM customers;
CREATE TABLE customers_abroad (country text) INHERITS (customers);
INSERT INTO customers_abroad VALUES (11, 'Ada', 'ada@example.com', '3400 000000 00009', '918-27-1011', DEFAULT, 'SE');
CREATE TABLE patients (id integer, ssn text, year integer) PARTITION BY LIST (year);
CREATE TABLE patients_2024 PARTITION OF patients FOR VALUES IN (2024);
INSERT INTO patients VALUES (1, '918-27-1021', 2024);
CREATE TABLE staff (
    id integer PRIMARY KEY, pin integer, born date, file jsonb, badge uuid, note text, pay numeric
);
INSERT INTO staff VALUES (1, 73194826, '1987-03-14', '{"diagnosis": "hyperlexia"}',
    'a3bb189e-8bf9-4c4d-9f0e-2d1c6f5b7a10', 'a quiet note', 918271.25);
CREATE TABLE registry (id integer PRIMARY KEY, ssn text UNIQUE);
CREATE TABLE badges (id integer PRIMARY KEY,
    ssn text REFERENCES registry (ssn) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO registry VALUES (1, '918-27-1031');
INSERT INTO badges VALUES (1, '918-27-1031');
CREATE TABLE leavers (id integer PRIMARY KEY, ssn text);
INSERT INTO leavers SELECT n, '918-27-2' || n FROM generate_series(1, 500) n;
CREATE TABLE stash (value text);
CREATE TABLE plain (id integer, item text);
INSERT INTO plain SELECT n, 'item ' || n FROM generate_series(1, 20) n;
CREATE SCHEMA other;
CREATE TABLE other.pair (id integer, name text);
CREATE TABLE public.pair (id integer, name text);
INSERT INTO other.pair VALUES (1, '918-27-1041');
INSERT INTO public.pair VALUES (1, 'harmless');
CREATE FUNCTION peek(refcursor) RETURNS refcursor LANGUAGE plpgsql AS
    'BEGIN OPEN $1 FOR SELECT id, ssn FROM customers; RETURN $1; END';
CREATE FUNCTION shout() RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE NOTICE ''found %'', (SELECT ssn FROM customers WHERE id = 1); RETURN (SELECT ssn FROM customers WHERE id = 2); END';
CREATE FUNCTION secret_of(customers) RETURNS text LANGUAGE sql AS 'SELECT $1.ssn';
CREATE FUNCTION everyone() RETURNS SETOF customers LANGUAGE sql AS 'SELECT * FROM customers';
GRANT ALL ON SCHEMA public, other TO shop_agent;
GRANT ALL ON ALL TABLES IN SCHEMA public, other TO shop_agent;
ALTER TABLE customers OWNER TO shop_agent;
ALTER TABLE customers_abroad OWNER TO shop_agent;
ALTER VIEW contacts OWNER TO shop_agent;
ANALYZE;
