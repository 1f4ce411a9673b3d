//! Any columns, rules and rows: what masks hide is gone, what comes out is still a row, a value or a copy of the same shape,
//! and no cut changes it.

mod copies;
mod rows;

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::BytesMut;
use portcullis::codec::postgres::encode::backend;
use portcullis::codec::postgres::frame::HEADER_BYTES;
use portcullis::mask::catalog::{Column, Relation, RelationKind};
use portcullis::mask::copy::CopyFormat;
use portcullis::mask::plan::plan;
use portcullis::mask::types::{TypeClass, class_of};
use portcullis::mask::{
    CellAction, ColumnRule, Detector, Field, Format, HashKey, MaskCatalog, Method, Scanner, StreamScanner,
};
use portcullis::policy::rule::MaskTarget;
use portcullis::request::Statement;
use portcullis::request::sql::analyze;
use zeroize::Zeroizing;

use self::copies::{copies, copy_format, server_copy};
use self::rows::{held_row, long_row};
use crate::input::Input;

/// Bytes of a piece of the input, at most.
const PIECE_BYTES_MAX: usize = 64;

/// Planted in masked columns only.
const SECRET: &[u8] = b"Qx7kPlantedSecretZw93Hf2Lm";

/// So much of it may never be read; `partial` shows four characters.
const SHOWN_BYTES_MAX: usize = 6;

/// One secret for each detector.
const FINDABLE: [(Detector, &str); 8] = [
    (Detector::ApiKey, concat!("gh", "p_16C7e42F292c6912E7710c838347Ae178B4a")),
    (Detector::AwsKey, concat!("AKIA", "IOSFODNN7EXAMPLE")),
    (Detector::Email, "zq.hidden@mail.example.com"),
    (Detector::Iban, "DE89370400440532013000"),
    (
        Detector::Jwt,
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ),
    (Detector::PaymentCard, "4111-1111-1111-1111"),
    (Detector::PasswordInUrl, "Pw9kx2Qm4z"),
    (Detector::PrivateKey, "MIIEq0w9e8r7t6"),
];

/// text, varchar, name, json, jsonb, text[], uuid, int8, float8, numeric, bytea, int4, bool, timestamptz, point, int4[], a
/// type of this database, none.
const TYPES: [u32; 18] =
    [25, 1043, 19, 114, 3802, 1009, 2950, 20, 701, 1700, 17, 23, 16, 1184, 600, 1007, 20_123, 0];

const CUSTOMERS: u32 = 20_001;

/// Columns 1 to 4 of `customers` are masked, each by another method; 5 is not.
const POLICY: &str = r#"
version = 1
name = "fuzz"
mask = [
    { on = "postgres", columns = ["customers.redacted"], with = "redact" },
    { on = "postgres", columns = ["customers.partial"], with = "partial" },
    { on = "postgres", columns = ["customers.hashed"], with = "hash" },
    { on = "postgres", columns = ["customers.nulled"], with = "null" },
]
"#;

const METHODS: [Method; 4] = [Method::Redact, Method::Partial, Method::Hash, Method::Null];

/// Statements that read masked columns, an open one, and none.
const STATEMENTS: [&str; 3] =
    ["SELECT redacted || 'x', open FROM customers", "SELECT open, 1 FROM customers", "SELECT 1"];

struct World {
    statements: Vec<Statement>,
    catalog: MaskCatalog,
    scanners: Vec<Arc<Scanner>>,
    key: Arc<HashKey>,
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

fn world() -> World {
    let column = |attnum, name: &str| Column { attnum, name: name.to_owned(), type_oid: 25 };
    let names = ["redacted", "partial", "hashed", "nulled", "open"];
    let customers = Relation {
        oid: CUSTOMERS,
        schema: "public".to_owned(),
        name: "customers".to_owned(),
        kind: RelationKind::Table,
        columns: (1..).zip(names).map(|(attnum, name)| column(attnum, name)).collect(),
        parents: Vec::new(),
        generated: Vec::new(),
        view_outputs: Vec::new(),
        view_reads: Vec::new(),
    };
    let policy = portcullis::policy::load(POLICY).expect("the policy loads").policy;
    let mut rules = Vec::new();
    for mask in &policy.masks {
        let MaskTarget::Columns(patterns) = &mask.what else { continue };
        rules.extend(patterns.iter().map(|pattern| ColumnRule {
            name: pattern.text.clone(),
            schema: pattern.schema.clone(),
            table: pattern.table.clone(),
            column: pattern.column.clone(),
            method: mask.with,
            terms: mask.predicates.into(),
        }));
    }
    let all = METHODS.map(|method| FINDABLE.iter().map(|(detector, _)| (*detector, method)).collect());
    let each = FINDABLE.iter().map(|(detector, _)| vec![(*detector, Method::Redact)]);
    let sets = std::iter::once(Vec::new()).chain(all).chain(each);
    World {
        statements: STATEMENTS.iter().flat_map(|text| analyze(text).statements).collect(),
        catalog: MaskCatalog::build(&[customers], &rules),
        scanners: sets.map(|set| Arc::new(Scanner::new(&set).expect("detectors"))).collect(),
        key: Arc::new(HashKey::new(Zeroizing::new([7; 32]))),
    }
}

/// Cuts bytes into pieces whose lengths repeat.
pub fn pieces<'a>(mut rest: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        // Short and long pieces both matter: cuts inside of a secret, and between what was decided and what was not.
        let length =
            lengths.next().map_or(1, |byte| (usize::from(*byte) + 1).pow(if byte % 4 == 3 { 2 } else { 1 }));
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub field: Field,
    pub action: CellAction,
}

/// The values of one row.
pub type Cells = Vec<Option<Vec<u8>>>;

fn columns(input: &mut Input<'_>, world: &World, scanner: &Scanner) -> Vec<Shape> {
    let statement = match input.below(4) {
        0 => None,
        known => world.statements.get(known - 1),
    };
    let count = input.below(6) + 1;
    let field = |input: &mut Input<'_>| {
        let (table_oid, attnum) = match input.below(10) {
            origin @ 0..=5 => (CUSTOMERS, origin as i16),
            6 => (CUSTOMERS, 77),
            7 => (20_999, 1),
            8 => (1259, 1),
            _ => (0, 0),
        };
        let type_oid = input.pick(&TYPES);
        let format = input.pick(&[Format::Text, Format::Binary]);
        Field { table_oid, attnum, type_oid, format }
    };
    let fields: Vec<Field> = (0..count).map(|_| field(input)).collect();
    let made = plan(statement, &world.catalog, scanner, &fields);
    assert_eq!(made.cells.len(), fields.len());
    let shapes: Vec<Shape> =
        fields.into_iter().zip(made.cells).map(|(field, action)| Shape { field, action }).collect();
    for Shape { field, action } in &shapes {
        let masked = match (field.table_oid, field.attnum) {
            (CUSTOMERS, 0) => Some(Method::Null),
            (CUSTOMERS, attnum @ 1..=4) => Some(METHODS[attnum as usize - 1]),
            (CUSTOMERS, 5) | (0, _) => continue,
            _ => Some(Method::Redact),
        };
        // PostgreSQL's own relations are known to have no masked columns.
        if field.table_oid >= 16_384 {
            assert_eq!(Some(*action), masked.map(CellAction::Mask), "{field:?}");
        }
    }
    shapes
}

/// A value in its type's form where that has one, around the fuzzer's bytes; secrets only where they are hidden.
fn value(input: &mut Input<'_>, shape: Shape, long: usize) -> Option<Vec<u8>> {
    let kind = input.below(8);
    let (before, after) = (input.piece(), input.piece());
    let mut text = before.to_vec();
    text.extend(std::iter::repeat_n(b"plain words, ", long).flatten());
    match shape.action {
        CellAction::Mask(_) => text.extend_from_slice(SECRET),
        CellAction::Detect | CellAction::Pass if kind.is_multiple_of(2) => {
            text.extend_from_slice(&findable(input))
        }
        CellAction::Detect | CellAction::Pass => {}
    }
    text.extend_from_slice(after);
    match kind {
        0 | 1 => return if kind == 0 { None } else { Some(text) },
        _ => {}
    }
    let words = || String::from_utf8_lossy(&text).into_owned();
    let fixed = |length: usize| before.iter().chain(std::iter::repeat(&7)).take(length).copied().collect();
    Some(match (class_of(shape.field.type_oid), shape.field.format) {
        (TypeClass::Json, _) | (TypeClass::Jsonb, Format::Text) => json(kind, &words()),
        (TypeClass::Jsonb, Format::Binary) => [&[1][..], &json(kind, &words())].concat(),
        (TypeClass::Uuid | TypeClass::Numeric, Format::Binary) => fixed(16),
        (TypeClass::Int8 | TypeClass::Float8, Format::Binary) => {
            if kind.is_multiple_of(2) {
                4_111_111_111_111_111_i64.to_be_bytes().to_vec()
            } else {
                fixed(8)
            }
        }
        (TypeClass::Rigid, Format::Binary) => fixed(4),
        _ => text,
    })
}

fn json(kind: usize, words: &str) -> Vec<u8> {
    let number: String = words.chars().filter(char::is_ascii_digit).take(30).collect();
    let value = match kind {
        2 => serde_json::json!({"a": words, words: [1, words, null]}),
        3 => serde_json::json!([words, {"n": number.parse::<u64>().unwrap_or(4_111_111_111_111_111)}]),
        _ => return words.as_bytes().to_vec(),
    };
    value.to_string().into_bytes()
}

/// A secret of a detector between bytes that no matcher takes for a part of it.
fn findable(input: &mut Input<'_>) -> Vec<u8> {
    let (detector, secret) = input.pick(&FINDABLE);
    let secret = match detector {
        Detector::PasswordInUrl => format!("postgres://app:{secret}@db/x"),
        Detector::PrivateKey => format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----"),
        Detector::ApiKey
        | Detector::AwsKey
        | Detector::Email
        | Detector::Iban
        | Detector::Jwt
        | Detector::PaymentCard => secret.to_owned(),
    };
    format!(" | {secret} | ").into_bytes()
}

pub fn holds(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

pub fn assert_hidden(bytes: &[u8], what: &str) {
    for part in SECRET.windows(SHOWN_BYTES_MAX) {
        assert!(!holds(bytes, part), "{what}: {}", bytes.escape_ascii());
    }
}

/// A secret that a detector of this set knows is gone from what was searched.
pub fn assert_found(scanner: &Scanner, original: &[u8], new: &[u8]) {
    for (detector, secret) in FINDABLE {
        let on = scanner.count(&findable_of(detector, secret)).count(detector) > 0;
        let planted = findable_of(detector, secret);
        if on && holds(original, &planted) {
            assert!(!holds(new, secret.as_bytes()), "{detector:?} in {}", original.escape_ascii());
        }
    }
}

pub fn findable_of(detector: Detector, secret: &str) -> Vec<u8> {
    let index = FINDABLE.iter().position(|(other, _)| *other == detector).unwrap_or(0) as u8;
    debug_assert!(!secret.is_empty());
    findable(&mut Input::new(&[index], PIECE_BYTES_MAX))
}

/// Text through a detector's stream is the same as in one piece.
fn streams(input: &[u8], lengths: &[u8], scanner: &Scanner, key: &HashKey) {
    let run = |mut stream: StreamScanner, pieces: &[&[u8]]| {
        let mut out = Vec::new();
        for piece in pieces {
            stream.push(scanner, key, piece, &mut out);
        }
        let findings = stream.finish(scanner, key, &mut out);
        (out, findings)
    };
    for make in [StreamScanner::new, StreamScanner::json, StreamScanner::same_length] {
        assert!(run(make(), &pieces(input, lengths)) == run(make(), &[input]), "a cut changes what is found");
    }
    let mut whole = Vec::new();
    if scanner.mask_text(input, key, &mut whole).is_empty() {
        whole.extend_from_slice(input);
    }
    assert!(run(StreamScanner::new(), &[input]).0 == whole, "whole and in a stream disagree");
}

fn check(world: &World, data: &[u8]) {
    let mut input = Input::new(data, PIECE_BYTES_MAX);
    let (lengths, scanner) = ([input.byte(), input.byte(), input.byte()], input.below(world.scanners.len()));
    let (scanner, key) = (&world.scanners[scanner], &world.key);
    let shapes = columns(&mut input, world, scanner);
    // Seldom, because it takes long: a value beyond what detectors hold.
    let long = if input.byte() == 77 { 7_400 + 8 * usize::from(input.byte()) } else { 0 };
    let format = copy_format(&mut input);
    let mut rows: Vec<Cells> = Vec::new();
    for row in 0..=input.below(3) {
        let long = |column| if row == 0 && column == 0 { long } else { 0 };
        let cells = shapes.iter().enumerate();
        rows.push(cells.map(|(column, shape)| value(&mut input, *shape, long(column))).collect());
    }
    for cells in &rows {
        let mut row = BytesMut::new();
        backend::data_row(&mut row, cells.iter().map(Option::as_deref)).expect("few columns");
        held_row(&shapes, cells, &row, scanner, key);
        long_row(&shapes, cells, &row[HEADER_BYTES..], &lengths, scanner, key);
    }
    if let Some(cell) = rows[0].iter().flatten().next() {
        streams(cell, &lengths, scanner, key);
    }
    let Some(format) = format else { return };
    let without_header = match &format {
        CopyFormat::Csv { header, .. } | CopyFormat::Text { header, .. } => !header,
        CopyFormat::Binary => true,
    };
    let whole: Vec<&Cells> = rows.iter().collect();
    let out = server_copy(&format, &shapes, &whole, &lengths, scanner, key);
    let is_shown = |shape: &Shape| shape.action == CellAction::Mask(Method::Partial);
    if without_header && !shapes.iter().any(is_shown) {
        assert_hidden(&out, "a copy");
    }
    copies(&format, &shapes, input.left, &lengths, scanner, key);
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    // The fuzzer's own bytes are shown where nothing is masked.
    if SECRET.windows(SHOWN_BYTES_MAX).any(|part| holds(data, part)) {
        return;
    }
    WORLD.with(|cell| check(cell.get_or_init(world), data));
}
