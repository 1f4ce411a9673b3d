//! PostgreSQL's built-in types as masking sees them: which carry text, which can hide a number worth finding.

/// How a value is written on the wire, from Bind's or COPY's format codes
/// (<https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Format code 0: the type's text form.
    Text,
    /// Format code 1: the type's `send` form.
    Binary,
}

/// What may stand in a cell of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeClass {
    /// Any text may replace any other; the binary form is the text itself.
    Text,
    /// `json`: must stay a JSON document; the binary form is the text.
    Json,
    /// `jsonb`: as `json`, with a version byte in front in binary form.
    Jsonb,
    /// Arrays of a [`TypeClass::Text`] type: any text may replace an element.
    TextArray,
    /// `uuid`: 16 bytes.
    Uuid,
    /// `int8`: 64 bits, big-endian, in binary form.
    Int8,
    /// `float8`.
    Float8,
    /// `numeric`: groups of four decimal digits in binary form.
    Numeric,
    /// `bytea`: raw bytes in binary form.
    Bytea,
    /// Too small or too rigid to hold anything a detector looks for (dates, booleans, small integers …).
    Rigid,
    /// A built-in type that is none of the above; its text must stay in the type's own grammar.
    Other,
    /// A type defined in this database (citext, hstore, an enum, a composite) or not named at all. Drivers hand its
    /// text form on as text.
    User,
}

/// OIDs below this are assigned by PostgreSQL's own catalogue files and by initdb (`FirstNormalObjectId`,
/// src/include/access/transam.h).
pub const FIRST_USER_OID: u32 = 16_384;

/// Class of a type OID (src/include/catalog/pg_type.dat). A column of a domain is reported with its base type.
#[must_use]
pub fn class_of(type_oid: u32) -> TypeClass {
    match type_oid {
        // name, text, xml, unknown, bpchar, varchar, refcursor, cstring
        19 | 25 | 142 | 705 | 1042 | 1043 | 1790 | 2275 => TypeClass::Text,
        114 => TypeClass::Json,
        3802 => TypeClass::Jsonb,
        // name[], text[], xml[], bpchar[], varchar[], refcursor[], cstring[]
        1003 | 1009 | 143 | 1014 | 1015 | 2201 | 1263 => TypeClass::TextArray,
        2950 => TypeClass::Uuid,
        20 => TypeClass::Int8,
        701 => TypeClass::Float8,
        1700 => TypeClass::Numeric,
        17 => TypeClass::Bytea,
        // bool, "char", int2, regproc, int4, oid, tid, xid, cid, float4, macaddr8, macaddr, inet, cidr, date, time,
        // timestamp, timestamptz, interval, timetz, void, pg_lsn, xid8
        16
        | 18
        | 21
        | 23
        | 24
        | 26..=29
        | 700
        | 774
        | 829
        | 869
        | 650
        | 1082
        | 1083
        | 1114
        | 1184
        | 1186
        | 1266
        | 2278
        | 3220
        | 5069 => TypeClass::Rigid,
        0 | FIRST_USER_OID.. => TypeClass::User,
        _ => TypeClass::Other,
    }
}

/// Whether detectors have to look at values of this type at all.
#[must_use]
pub fn worth_scanning(type_oid: u32) -> bool {
    !matches!(class_of(type_oid), TypeClass::Rigid | TypeClass::Uuid)
}
