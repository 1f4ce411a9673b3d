//! Catalogues against data.

use globset::Glob;

use super::*;

/// `schema.table.column` or `table.column`, each part a glob.
pub(in crate::mask) fn rule(pattern: &str, method: Method) -> ColumnRule {
    let matcher = |part: &str| Glob::new(part).unwrap().compile_matcher();
    let parts: Vec<&str> = pattern.split('.').collect();
    let [rest @ .., table, column] = parts.as_slice() else { panic!("{pattern}") };
    let schema = rest.first().map(|schema| matcher(schema));
    let terms = Terms::default();
    let (table, column) = (matcher(table), matcher(column));
    ColumnRule { name: pattern.to_owned(), schema, table, column, method, terms }
}

pub(in crate::mask) fn relation(oid: u32, name: &str, kind: RelationKind, columns: &[&str]) -> Relation {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    let column = |(at, name): (usize, &&str)| Column {
        attnum: i16::try_from(at + 1).unwrap(),
        name: (*name).to_owned(),
        type_oid: 25,
    };
    Relation {
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        columns: columns.iter().enumerate().map(column).collect(),
        parents: Vec::new(),
        generated: Vec::new(),
        view_outputs: Vec::new(),
        view_reads: Vec::new(),
    }
}

pub(in crate::mask) fn view(
    oid: u32,
    name: &str,
    columns: &[(&str, Option<(u32, i16)>)],
    reads: &[(u32, i16)],
) -> Relation {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut view = relation(oid, name, RelationKind::View, &names);
    for (attnum, (_, origin)) in (1..).zip(columns) {
        view.view_outputs.push(ViewOutput { attnum, origin: *origin });
    }
    view.view_reads = reads.to_vec();
    view
}

pub(in crate::mask) const CUSTOMERS: u32 = 20_001;
pub(in crate::mask) const ORDERS: u32 = 20_002;

pub(in crate::mask) fn customers() -> Relation {
    relation(CUSTOMERS, "customers", RelationKind::Table, &["id", "name", "ssn", "note"])
}

pub(in crate::mask) fn orders() -> Relation {
    relation(ORDERS, "orders", RelationKind::Table, &["id", "customer_id", "total"])
}

/// The relations' masked columns, as `name.column method`.
fn masked(relations: &[Relation], rules: &[ColumnRule]) -> Vec<String> {
    let catalog = MaskCatalog::build(relations, rules);
    let mut all = Vec::new();
    for relation in relations {
        for column in &relation.columns {
            if let ColumnMask::Masked(method, _) = catalog.column(relation.oid, column.attnum) {
                all.push(format!("{}.{} {method:?}", relation.name, column.name));
            }
        }
    }
    all
}

#[test]
fn patterns_choose_columns_and_the_first_counts() {
    let relations =
        [customers(), orders(), relation(9, "crm.customers", RelationKind::Table, &["ssn", "password_hash"])];
    let all = |rules: &[ColumnRule]| masked(&relations, rules);
    assert_eq!(all(&[rule("customers.ssn", Method::Hash)]), ["customers.ssn Hash", "customers.ssn Hash"]);
    assert_eq!(all(&[rule("crm.customers.ssn", Method::Hash)]), ["customers.ssn Hash"]);
    assert_eq!(all(&[rule("*.password*", Method::Null)]), ["customers.password_hash Null"]);
    assert_eq!(
        all(&[rule("public.*.ssn", Method::Partial), rule("*.ssn", Method::Null)]),
        ["customers.ssn Partial", "customers.ssn Null"]
    );
    assert!(all(&[rule("Customers.ssn", Method::Null)]).is_empty());
    assert!(all(&[]).is_empty());
}

#[test]
fn inheritance_carries_masks_both_ways() {
    let mut child = relation(31, "customers_eu", RelationKind::Table, &["ssn", "vat", "id"]);
    child.parents = vec![30];
    let mut grandchild = relation(32, "customers_de", RelationKind::Table, &["id", "vat", "ssn"]);
    grandchild.parents = vec![31];
    let mut sibling = relation(33, "customers_us", RelationKind::ForeignTable, &["ssn"]);
    sibling.parents = vec![30];
    let parent = relation(30, "customers", RelationKind::PartitionedTable, &["id", "ssn"]);
    let relations = [grandchild, child, parent, sibling];
    let expected = [
        "customers_de.ssn Redact",
        "customers_eu.ssn Redact",
        "customers.ssn Redact",
        "customers_us.ssn Redact",
    ];
    assert_eq!(masked(&relations, &[rule("customers.ssn", Method::Redact)]), expected);
    assert_eq!(masked(&relations, &[rule("customers_de.ssn", Method::Redact)]), expected);
    assert_eq!(
        masked(&relations, &[rule("customers_eu.vat", Method::Redact)]),
        ["customers_de.vat Redact", "customers_eu.vat Redact"]
    );
}

#[test]
fn views_carry_masks() {
    let relations = [
        // A view of a view, before the view it reads.
        view(43, "v3", &[("n", Some((41, 1))), ("d", Some((42, 1)))], &[(41, 1), (42, 1)]),
        view(
            41,
            "v1",
            &[("note", Some((CUSTOMERS, 3))), ("who", Some((CUSTOMERS, 2)))],
            &[(CUSTOMERS, 3), (CUSTOMERS, 2)],
        ),
        view(42, "v2", &[("digits", None), ("who", Some((CUSTOMERS, 2)))], &[(CUSTOMERS, 3), (CUSTOMERS, 2)]),
        view(44, "clean", &[("upper", None)], &[(CUSTOMERS, 2)]),
        view(45, "whole", &[("row", None), ("row2", Some((CUSTOMERS, 0)))], &[(CUSTOMERS, 0)]),
        view(46, "elsewhere", &[("x", None), ("y", Some((999, 1)))], &[(999, 1)]),
        view(47, "silent", &[("now", None)], &[]),
        customers(),
    ];
    assert_eq!(
        masked(&relations, &[rule("customers.ssn", Method::Partial)]),
        [
            "v3.n Partial",
            "v3.d Redact",
            "v1.note Partial",
            "v2.digits Redact",
            "whole.row Redact",
            "whole.row2 Redact",
            "elsewhere.x Redact",
            "elsewhere.y Redact",
            "customers.ssn Partial"
        ]
    );
    let catalog = MaskCatalog::build(&relations, &[rule("customers.ssn", Method::Partial)]);
    // No masked output, yet an INSERT into it can fail with the whole row of customers.
    assert!(matches!(
        catalog.relation_by_name(None, "clean"),
        NamedRelation::Known { masked, near_masked: true } if masked.is_empty()
    ));
}

#[test]
fn statistics_leak_only_where_there_is_something_to_leak() {
    let relations = [
        customers(),
        relation(
            2619,
            "pg_catalog.pg_statistic",
            RelationKind::Table,
            &["starelid", "stavalues1", "stavalues5"],
        ),
        relation(
            50,
            "pg_catalog.pg_stats",
            RelationKind::View,
            &["tablename", "most_common_vals", "histogram_bounds"],
        ),
        relation(51, "pg_catalog.pg_stat_activity", RelationKind::View, &["pid", "query"]),
        relation(52, "mine.pg_stats", RelationKind::Table, &["histogram_bounds"]),
    ];
    assert_eq!(
        masked(&relations, &[rule("customers.ssn", Method::Null)]),
        [
            "customers.ssn Null",
            "pg_statistic.stavalues1 Redact",
            "pg_statistic.stavalues5 Redact",
            "pg_stats.most_common_vals Redact",
            "pg_stats.histogram_bounds Redact",
            "pg_stat_activity.query Redact"
        ]
    );
    assert!(masked(&relations, &[]).is_empty());
}

#[test]
fn what_is_not_known_is_told_apart() {
    let catalog = MaskCatalog::build(&[customers(), orders()], &[rule("customers.ssn", Method::Null)]);
    assert_eq!(catalog.column(CUSTOMERS, 3), ColumnMask::Masked(Method::Null, "customers.ssn"));
    assert_eq!(catalog.column(CUSTOMERS, 1), ColumnMask::None);
    assert_eq!(catalog.column(CUSTOMERS, -1), ColumnMask::None);
    assert_eq!(catalog.column(CUSTOMERS, 9), ColumnMask::UnknownRelation);
    assert_eq!(catalog.column(4711, 1), ColumnMask::UnknownRelation);
    assert!(catalog.is_masked_relation(CUSTOMERS) && catalog.is_masked_relation(4711));
    assert!(!catalog.is_masked_relation(ORDERS));
    assert_eq!(catalog.relation_by_name(None, "nowhere"), NamedRelation::Unknown);
    assert_eq!(catalog.relation_by_name(Some("crm"), "customers"), NamedRelation::Unknown);
    let inactive = MaskCatalog::build(&[customers()], &[]);
    assert_eq!(inactive.column(4711, 1), ColumnMask::None);
    assert!(!inactive.is_masked_relation(4711));
}

#[test]
fn names_cover_every_schema_of_the_search_path() {
    let shadow = relation(60, "pg_temp_3.customers", RelationKind::Table, &["id", "name"]);
    let relations = [customers(), shadow, relation(61, "crm.customers", RelationKind::Table, &["id", "vat"])];
    let rules = [rule("public.customers.ssn", Method::Null), rule("crm.customers.vat", Method::Null)];
    let catalog = MaskCatalog::build(&relations, &rules);
    let names = |schema: Option<&str>| match catalog.relation_by_name(schema, "customers") {
        NamedRelation::Known { masked, .. } => masked.into_iter().collect::<Vec<_>>().join(","),
        NamedRelation::Unknown => "unknown".to_owned(),
    };
    assert_eq!(names(None), "ssn,vat");
    assert_eq!(names(Some("public")), "ssn");
    assert_eq!(names(Some("pg_temp")), "");
    // Three tables of one name: only a schema tells which one COPY means.
    assert_eq!(
        catalog.copied_columns(None, "customers", &["id".into()]).map(|columns| columns.len()),
        Some(1)
    );
    assert_eq!(catalog.copied_columns(None, "customers", &[]), None);
    assert_eq!(
        catalog.copied_columns(Some("crm"), "customers", &[]),
        Some(vec![(25, ColumnMask::None), (25, ColumnMask::Masked(Method::Null, "crm.customers.vat"))])
    );
    assert_eq!(catalog.copied_columns(Some("crm"), "customers", &["ssn".into()]), None);
}

#[test]
fn a_generated_column_is_masked_when_it_reads_a_masked_one() {
    let mut base = customers();
    base.generated = vec![(4, 2), (4, 3)];
    let over = view(41, "notes", &[("shown", Some((CUSTOMERS, 4)))], &[(CUSTOMERS, 4)]);
    assert_eq!(
        masked(&[base.clone(), over], &[rule("customers.ssn", Method::Partial)]),
        ["customers.ssn Partial", "customers.note Redact", "notes.shown Redact"]
    );
    let catalog = MaskCatalog::build(std::slice::from_ref(&base), &[rule("customers.ssn", Method::Null)]);
    assert_eq!(catalog.copied_columns(None, "customers", &[]).unwrap().len(), 3, "COPY leaves it out");
    assert_eq!(masked(&[base], &[rule("customers.id", Method::Null)]), ["customers.id Null"]);
}

#[test]
fn a_table_may_hide_a_system_catalogue_of_its_name() {
    let system = relation(9, "pg_catalog.pg_tables", RelationKind::View, &["tablename"]);
    let hiding = view(41, "pg_tables", &[("tablename", Some((CUSTOMERS, 3)))], &[(CUSTOMERS, 3)]);
    let catalog =
        MaskCatalog::build(&[customers(), system, hiding], &[rule("customers.ssn", Method::Partial)]);
    let NamedRelation::Known { masked, .. } = catalog.relation_by_name(Some("pg_catalog"), "pg_tables")
    else {
        panic!("not known");
    };
    assert_eq!(masked, BTreeSet::from(["tablename"]), "search_path may put public first");
}
