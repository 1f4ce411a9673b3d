//! What clients ask for, and what the results are.

/// What the masked column holds.
pub const SECRET: &str = "Qx7kPlantedSecretZw93Hf2Lm";

/// `customers`; `orders` and `secret_table` come next.
pub const CUSTOMERS: u32 = 20_001;
pub const ORDERS: u32 = 20_002;

/// One column of a result: name, relation, attribute, type, value.
pub type Column = (&'static str, u32, i16, u32, &'static str);

const ID: Column = ("id", CUSTOMERS, 1, 23, "1");
const SSN: Column = ("ssn", CUSTOMERS, 2, 25, SECRET);
const COMPUTED: Column = ("?column?", 0, 0, 25, SECRET);
const TOTAL: Column = ("total", ORDERS, 2, 25, "12.50");
const MAIL: Column = ("?column?", 0, 0, 25, "a@mail.example.com");
const PLAIN: Column = ("?column?", 0, 0, 25, "x");
const WHOLE: Column = ("c", CUSTOMERS, 0, 20_010, "(1,Qx7kPlantedSecretZw93Hf2Lm)");
/// What the server says where nothing else is known.
pub const UNKNOWN: &[Column] = &[PLAIN];

/// Statements whose results are known to hold secrets, or to be something else than [`UNKNOWN`].
pub const KNOWN: [(&str, &[Column]); 14] = [
    ("SELECT id, ssn FROM customers", &[ID, SSN]),
    ("SELECT * FROM customers", &[ID, SSN]),
    ("TABLE customers", &[ID, SSN]),
    ("SELECT ssn || '' FROM customers", &[COMPUTED]),
    ("SELECT lower(ssn), total FROM customers, orders", &[COMPUTED, TOTAL]),
    ("SELECT c FROM customers c", &[WHOLE]),
    ("WITH x AS (SELECT ssn FROM customers) SELECT max(ssn) FROM x", &[COMPUTED]),
    ("SELECT total FROM orders", &[TOTAL]),
    ("SELECT 'a@mail.example.com'", &[MAIL]),
    ("INSERT INTO customers VALUES (1, 'x') RETURNING ssn", &[SSN]),
    ("UPDATE customers SET id = 2 RETURNING ssn || ''", &[COMPUTED]),
    ("COPY customers TO STDOUT", &[ID, SSN]),
    ("COPY customers (ssn) TO STDOUT (FORMAT csv)", &[SSN]),
    ("COPY (SELECT ssn FROM customers) TO STDOUT", &[COMPUTED]),
];

/// Others that clients send.
pub const OTHERS: [&str; 30] = [
    "SELECT 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "COPY orders FROM STDIN",
    "COPY secret_table FROM STDIN",
    "COPY orders TO STDOUT (FORMAT binary)",
    "CREATE TABLE t (a int)",
    "CREATE VIEW v AS SELECT ssn FROM customers",
    "ALTER TABLE orders ADD x int",
    "ALTER VIEW v RENAME TO orders",
    "DELETE FROM secret_table",
    "DELETE FROM orders",
    "TRUNCATE orders",
    "SET search_path = other",
    "SET client_encoding = latin1",
    "DO $$ BEGIN PERFORM 1; END $$",
    "LISTEN x",
    "EXPLAIN SELECT ssn FROM customers",
    "EXPLAIN ANALYZE DELETE FROM secret_table",
    "VACUUM",
    "SELECT nextval('s')",
    "SELECT f(1)",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "CLOSE ALL",
    "START_REPLICATION SLOT s LOGICAL 0/0",
    "",
];

/// What stands before a statement that is kept, and what is done with it by name.
pub const MAKERS: [&str; 4] =
    ["PREPARE p AS ", "PREPARE q AS ", "DECLARE c CURSOR FOR ", "DECLARE d SCROLL CURSOR WITH HOLD FOR "];
pub const USERS: [&str; 8] = [
    "EXECUTE p",
    "EXECUTE q",
    "FETCH ALL FROM c",
    "FETCH 2 FROM d",
    "MOVE 1 FROM c",
    "CLOSE c",
    "DEALLOCATE p",
    "CREATE TABLE t AS EXECUTE p",
];
