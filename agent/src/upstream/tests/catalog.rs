//! The catalogue of a real database: relations, inheritance, and what views are made of.

use std::collections::BTreeSet;

use super::server::Server;
use super::{Profile, log_in, startup};
use crate::mask::catalog::{Relation, RelationKind};
use crate::upstream::catalog::{UNKNOWN_READ, load};
use crate::upstream::query::Client;

const SCHEMA: &str = r#"
CREATE SCHEMA secret;
CREATE TABLE customers (id int PRIMARY KEY, gone text, ssn text, name varchar(20));
ALTER TABLE customers DROP COLUMN gone;
CREATE TABLE "Odd Näme" ("a ""column""" int);
CREATE TABLE events (at date, ssn text) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE made (a int, b int, c int GENERATED ALWAYS AS (a + b) STORED, d int DEFAULT 7);
CREATE TABLE vip (level int) INHERITS (customers);
CREATE TABLE secret.hidden (ssn text);
CREATE SEQUENCE numbers;
CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT ssn FROM customers';
CREATE VIEW renamed AS SELECT ssn AS label, id, upper(name) AS big FROM customers;
CREATE VIEW nested AS SELECT big, label FROM renamed;
CREATE MATERIALIZED VIEW kept AS SELECT ssn, count(*) FROM customers GROUP BY ssn;
CREATE VIEW whole AS SELECT c AS everything, c.id FROM customers c;
CREATE VIEW json AS SELECT row_to_json(c) AS j, c.id FROM customers c;
CREATE VIEW counted AS SELECT count(*) FROM customers;
CREATE VIEW united AS SELECT ssn FROM customers UNION ALL SELECT ssn FROM secret.hidden;
CREATE VIEW calling AS SELECT peek() AS p, 1 AS one;
CREATE VIEW asking AS SELECT query_to_xml('SELECT ssn FROM customers', true, true, '') AS x;
CREATE VIEW foreign_schema AS SELECT ssn FROM secret.hidden;
CREATE VIEW plain_sum AS SELECT 1 + 1 AS two;
GRANT SELECT ON foreign_schema TO trusty;
"#;

async fn client(server: &Server, user: &str, database: &str) -> Client {
    let login = log_in(server.address(), &startup(user, database), None).await.unwrap();
    Client::new(login, server.address())
}

fn find<'a>(relations: &'a [Relation], name: &str) -> &'a Relation {
    relations.iter().find(|relation| relation.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// `relation.column` of each output of a view, `-` where it is computed.
fn outputs(relations: &[Relation], view: &str) -> Vec<String> {
    let name = |&(oid, attnum): &(u32, i16)| {
        let relation = relations.iter().find(|relation| relation.oid == oid).unwrap();
        let column = relation.columns.iter().find(|column| column.attnum == attnum).unwrap();
        format!("{}.{}", relation.name, column.name)
    };
    let outputs = &find(relations, view).view_outputs;
    outputs.iter().map(|output| output.origin.as_ref().map_or("-".to_owned(), name)).collect()
}

fn reads(relations: &[Relation], view: &str) -> BTreeSet<(u32, i16)> {
    find(relations, view).view_reads.iter().copied().collect()
}

#[tokio::test]
async fn tells_relations_columns_and_views() {
    let server = Server::shared();
    server.database("catalog", SCHEMA);
    let relations = load(&mut client(&server, "postgres", "catalog").await).await.unwrap();

    let customers = find(&relations, "customers");
    assert_eq!((customers.schema.as_str(), customers.kind), ("public", RelationKind::Table));
    let columns: Vec<_> = customers
        .columns
        .iter()
        .map(|column| (column.attnum, column.name.as_str(), column.type_oid))
        .collect();
    assert_eq!(columns, [(1, "id", 23), (3, "ssn", 25), (4, "name", 1043)], "a dropped column leaves a gap");
    assert_eq!(find(&relations, "Odd Näme").columns[0].name, "a \"column\"");
    assert_eq!(find(&relations, "hidden").schema, "secret");
    assert_eq!(find(&relations, "events").kind, RelationKind::PartitionedTable);
    assert_eq!(find(&relations, "events_2024").parents, [find(&relations, "events").oid]);
    assert_eq!(find(&relations, "vip").parents, [customers.oid]);
    let generated: BTreeSet<_> = find(&relations, "made").generated.iter().copied().collect();
    assert_eq!(generated, BTreeSet::from([(3, 1), (3, 2)]), "a default is not generated");
    assert_eq!(find(&relations, "kept").kind, RelationKind::MaterializedView);
    assert_eq!(find(&relations, "numbers").kind, RelationKind::Other);
    assert_eq!(find(&relations, "pg_authid").schema, "pg_catalog");
    assert!(
        relations.iter().all(|relation| relation.name != "customers_pkey"),
        "an index is no relation of rows"
    );

    assert_eq!(outputs(&relations, "renamed"), ["customers.ssn", "customers.id", "-"]);
    assert_eq!(outputs(&relations, "nested"), ["renamed.big", "renamed.label"]);
    assert_eq!(outputs(&relations, "kept"), ["customers.ssn", "-"]);
    assert_eq!(outputs(&relations, "whole"), ["-", "customers.id"]);
    assert_eq!(outputs(&relations, "json"), ["-", "customers.id"]);
    assert_eq!(outputs(&relations, "united"), ["-"]);
    assert_eq!(outputs(&relations, "foreign_schema"), ["hidden.ssn"]);
    assert_eq!(outputs(&relations, "pg_shadow")[..2], ["pg_authid.rolname", "pg_authid.oid"]);

    let (customers, hidden) = (customers.oid, find(&relations, "hidden").oid);
    assert_eq!(
        reads(&relations, "renamed"),
        BTreeSet::from([(customers, 1), (customers, 3), (customers, 4)])
    );
    assert_eq!(reads(&relations, "whole"), BTreeSet::from([(customers, 0)]), "not merely the id it names");
    assert_eq!(reads(&relations, "json"), BTreeSet::from([(customers, 0)]));
    assert_eq!(reads(&relations, "counted"), BTreeSet::from([(customers, 0)]));
    assert_eq!(reads(&relations, "united"), BTreeSet::from([(customers, 3), (hidden, 1)]));
    assert_eq!(reads(&relations, "calling"), BTreeSet::from([UNKNOWN_READ]));
    assert_eq!(reads(&relations, "asking"), BTreeSet::from([UNKNOWN_READ]));
    assert_eq!(reads(&relations, "plain_sum"), BTreeSet::new());

    // Every view has an entry for each of its columns, whether or not it could be traced.
    for view in relations.iter().filter(|relation| relation.kind == RelationKind::View) {
        let columns: Vec<_> = view.columns.iter().map(|column| column.attnum).collect();
        let outputs: Vec<_> = view.view_outputs.iter().map(|output| output.attnum).collect();
        assert_eq!(columns, outputs, "{}", view.name);
    }
}

#[tokio::test]
async fn a_view_that_may_not_be_looked_into_is_computed() {
    let server = Server::shared();
    server.database("catalog_seen_from_below", SCHEMA);
    let mut client = client(&server, "trusty", "catalog_seen_from_below").await;
    let relations = load(&mut client).await.unwrap();
    assert_eq!(outputs(&relations, "foreign_schema"), ["-"]);
    assert_eq!(reads(&relations, "foreign_schema"), BTreeSet::from([(find(&relations, "hidden").oid, 1)]));
    assert_eq!(outputs(&relations, "renamed"), ["customers.ssn", "customers.id", "-"]);
    // The connection has survived the refusal and reads the same again.
    assert_eq!(load(&mut client).await.unwrap(), relations);
}

#[tokio::test]
async fn a_search_path_cannot_redirect_the_tracing() {
    let server = Server::shared();
    server.database(
        "catalog_shadowed",
        "CREATE VIEW tables AS SELECT relname FROM pg_class;
         CREATE TABLE public.pg_class (other text, relname text);
         ALTER DATABASE catalog_shadowed SET search_path = public, pg_catalog",
    );
    let login = Profile::plain().dial(server.address()).await.unwrap();
    let login = crate::upstream::login(login, &startup("postgres", "catalog_shadowed"), None).await.unwrap();
    let relations = load(&mut Client::new(login, server.address())).await.unwrap();
    let view = relations.iter().find(|view| view.name == "tables" && view.schema == "public").unwrap();
    let (origin, _) = view.view_outputs[0].origin.unwrap();
    let origin = relations.iter().find(|relation| relation.oid == origin).unwrap();
    assert_eq!((origin.schema.as_str(), origin.name.as_str()), ("pg_catalog", "pg_class"));
}
