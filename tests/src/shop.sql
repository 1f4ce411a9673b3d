-- A small shop: what the demo and the tests ask of PostgreSQL.
CREATE ROLE shop_agent LOGIN PASSWORD 'correct-horse-battery-staple' CREATEDB;
CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    card text NOT NULL UNIQUE,
    ssn text NOT NULL
);
CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    item text NOT NULL,
    amount numeric(10, 2) NOT NULL,
    status text NOT NULL DEFAULT 'new'
);
INSERT INTO customers
SELECT n,
       (ARRAY['Ada','Grace','Alan','Edsger','Barbara','Donald','Radia','Ken','Leslie','Frances'])[1 + n % 10] || ' ' || n,
       'customer' || n || '@example.com',
       (ARRAY['4111 1111 1111 1111','5500 0000 0000 0004','3400 0000 0000 009','6011 0000 0000 0004'])[1 + n % 4]
           || CASE WHEN n > 4 THEN ' #' || n ELSE '' END,
       lpad((100 + n)::text, 3, '0') || '-' || lpad((n % 90 + 10)::text, 2, '0') || '-' || lpad((n * 7 % 10000)::text, 4, '0')
FROM generate_series(1, 200) n;
INSERT INTO orders
SELECT n, 1 + n % 200, 'item ' || n, (n * 37 % 9000) / 100.0, CASE WHEN n % 3 = 0 THEN 'shipped' ELSE 'new' END
FROM generate_series(1, 5000) n;
CREATE VIEW contacts AS SELECT id, name, email AS address, ssn AS note FROM customers;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop_agent;
ALTER TABLE customers OWNER TO shop_agent;
ALTER TABLE orders OWNER TO shop_agent;
ALTER VIEW contacts OWNER TO shop_agent;
GRANT CREATE ON SCHEMA public TO shop_agent;
ANALYZE;
