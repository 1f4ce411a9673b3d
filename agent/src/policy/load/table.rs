//! Reads a TOML table into a struct without stopping at the first error, and describes the same table as JSON Schema:
//! one list of keys serves both, so the published schema cannot drift from what is accepted.

use std::ops::Range;

use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::diagnostic::{Diagnostic, Severity, did_you_mean, quoted};

/// Collects everything wrong with one file.
pub(super) struct Findings<'t> {
    text: &'t str,
    list: Vec<Diagnostic>,
    /// The text could be read in part only, so that a missing key means nothing.
    partial: bool,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, list: Vec::new(), partial: false }
    }

    /// For a text that could be read in part only.
    pub(super) fn of_a_part(text: &'t str) -> Self {
        Self { text, list: Vec::new(), partial: true }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|found| found.severity == Severity::Error)
    }

    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.push(Severity::Error, span, message.into());
    }

    pub(super) fn warning(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.push(Severity::Warning, span, message.into());
    }

    fn push(&mut self, severity: Severity, span: Range<usize>, message: String) {
        self.list.push(Diagnostic::new(self.text, severity, span, message));
    }

    /// Forgets what was found at or after a byte offset.
    pub(super) fn forget_from(&mut self, offset: usize) {
        self.list.retain(|found| found.span.start < offset);
    }

    /// Everything found, in file order.
    pub(super) fn into_list(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|found| (found.span.start, found.severity));
        self.list
    }
}

/// A value of the file. `read` reports everything wrong with it and gives `None` when nothing usable is left.
pub(super) trait Read: Sized {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self>;
    fn schema() -> Value;
}

/// What every table of the file remembers beside its values.
pub(super) trait Table {
    /// Where its header stands, or the whole of an inline table.
    fn span(&self) -> Range<usize>;

    /// Keys written, also those whose value could not be read.
    fn written(&self) -> &[String];
}

/// A value written as one string.
pub(super) trait Word: Sized {
    /// What is expected, for messages: `a time such as "15m"`.
    const WHAT: &'static str;

    /// The value, or what is wrong and what to write instead.
    fn parse(text: &str) -> Result<Self, String>;

    /// What is odd about a value that can be used.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Schema of the string, without its type.
    fn pattern() -> Value;
}

impl<T: Word> Read for T {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let DeValue::String(text) = value.get_ref() else {
            findings.error(value.span(), format!("expected {}, found {}", T::WHAT, noun(value.get_ref())));
            return None;
        };
        match T::parse(text) {
            Ok(word) => {
                if let Some(doubt) = word.doubt() {
                    findings.warning(value.span(), doubt);
                }
                Some(word)
            }
            Err(message) => {
                findings.error(value.span(), message);
                None
            }
        }
    }

    fn schema() -> Value {
        let mut schema = T::pattern();
        if let Some(object) = schema.as_object_mut() {
            object.insert("type".to_owned(), json!("string"));
        }
        schema
    }
}

/// One of a closed set of words.
pub(super) trait Choice: Sized + Copy + 'static {
    /// What the words are, for messages: `an effect`.
    const NOUN: &'static str;
    /// Every word and what it stands for.
    const ALL: &'static [(&'static str, Self)];
    /// Words of later versions.
    const LATER: &'static [&'static str] = &[];
}

impl<T: Choice> Word for T {
    const WHAT: &'static str = T::NOUN;

    fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = T::ALL.iter().map(|(word, _)| *word).collect();
        if T::LATER.contains(&text) {
            return Err(format!(
                "{} is not in this version, which knows {}; leave it out until you upgrade",
                quoted(text),
                words.join(" and ")
            ));
        }
        let guess = did_you_mean(text, words.iter().copied());
        Err(format!("{} is not {}{guess} (one of: {})", quoted(text), T::NOUN, words.join(", ")))
    }

    fn pattern() -> Value {
        json!({ "enum": T::ALL.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
}

impl Read for bool {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Boolean(truth) = value.get_ref() else {
            findings.error(value.span(), format!("expected true or false, found {}", noun(value.get_ref())));
            return None;
        };
        Some(*truth)
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

/// A list of at least one value. An empty list is refused because it reads as "nothing" and as "no limit".
pub(super) struct List<T>(pub(super) Vec<Spanned<T>>);

impl<T: Read> Read for List<T> {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let items = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::Table(_) => {
                findings
                    .error(value.span(), "this table may be repeated: write its name in [[double brackets]]");
                return None;
            }
            DeValue::String(text) => {
                findings.error(value.span(), format!("expected a list; write [{}]", quoted(text)));
                return None;
            }
            other
            @ (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
                findings.error(value.span(), format!("expected a list, found {}", noun(other)));
                return None;
            }
        };
        if items.is_empty() {
            findings.error(value.span(), "the list is empty; name at least one, or leave the key out");
        }
        let mut seen: Vec<&str> = Vec::new();
        for item in items.iter() {
            if let DeValue::String(text) = item.get_ref() {
                if seen.contains(&text.as_ref()) {
                    findings.warning(item.span(), format!("{} is already in the list", quoted(text)));
                }
                seen.push(text);
            }
        }
        Some(Self(
            items
                .iter()
                .filter_map(|item| T::read(item, findings).map(|read| Spanned::new(item.span(), read)))
                .collect(),
        ))
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema(), "minItems": 1 })
    }
}

/// What a TOML value is called in messages.
pub(super) fn noun(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// An open table whose keys are being read.
pub(super) struct Fields<'v, 'i> {
    table: &'v DeTable<'i>,
    span: Range<usize>,
    title: &'static str,
}

impl<'v, 'i> Fields<'v, 'i> {
    /// Opens a table and reports the keys it may not have.
    pub(super) fn open(
        value: &'v Spanned<DeValue<'i>>,
        title: &'static str,
        known: &[&'static str],
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let table = match value.get_ref() {
            DeValue::Table(table) => table,
            DeValue::Array(_) => {
                findings.error(
                    value.span(),
                    format!("{title} is one table: write its name in [single brackets]"),
                );
                return None;
            }
            other @ (DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)) => {
                findings.error(value.span(), format!("expected a table, found {}", noun(other)));
                return None;
            }
        };
        for key in table.keys() {
            let written = key.get_ref().as_ref();
            if known.contains(&written) {
                continue;
            }
            let guess = did_you_mean(written, known.iter().copied());
            let all = known.join(", ");
            findings
                .error(key.span(), format!("{title} has no key {}{guess} (it has: {all})", quoted(written)));
        }
        Some(Self { table, span: value.span(), title })
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Keys written, also those whose value could not be read.
    pub(super) fn written(&self) -> Vec<String> {
        self.table.keys().map(|key| key.get_ref().as_ref().to_owned()).collect()
    }

    pub(super) fn optional<T: Read>(&self, key: &str, findings: &mut Findings<'_>) -> Option<Spanned<T>> {
        let value = self.table.get(key)?;
        T::read(value, findings).map(|read| Spanned::new(value.span(), read))
    }

    pub(super) fn required<T: Read>(&self, key: &str, findings: &mut Findings<'_>) -> Option<Spanned<T>> {
        if !self.table.contains_key(key) && !findings.partial {
            findings.error(self.span(), format!("{} needs the key \"{key}\"", self.title));
        }
        self.optional(key, findings)
    }
}

/// One key of a table, for the schema.
pub(super) struct Property {
    pub(super) key: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) need: &'static str,
    pub(super) schema: Value,
}

/// JSON Schema of a table.
pub(super) fn table_schema(doc: &[&str], properties: Vec<Property>) -> Value {
    let required: Vec<&str> = properties
        .iter()
        .filter(|property| property.need == "required")
        .map(|property| property.key)
        .collect();
    let mut described = Map::new();
    for property in properties {
        let mut schema = property.schema;
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".to_owned(), json!(sentence(property.doc)));
        }
        described.insert(property.key.to_owned(), schema);
    }
    let mut schema = json!({
        "type": "object",
        "description": sentence(doc),
        "properties": described,
        "additionalProperties": false,
    });
    if let (false, Some(object)) = (required.is_empty(), schema.as_object_mut()) {
        object.insert("required".to_owned(), json!(required));
    }
    schema
}

fn sentence(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The key a field is read from: its own name, or the one given after `as` where Rust has the word for itself.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// Declares a table of the file. Each field says whether its key is `required` or `optional`; its comment is the
/// description in the schema.
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        struct $name:ident in $title:literal {
            $( $(#[doc = $field_doc:literal])+ $need:ident $field:ident $(as $key:literal)? : $type:ty, )+
        }
    ) => {
        $(#[doc = $doc])+
        pub(super) struct $name {
            span: std::ops::Range<usize>,
            written: Vec<String>,
            $( $(#[doc = $field_doc])+ pub(super) $field: Option<toml::Spanned<$type>>, )+
        }

        impl $crate::policy::load::table::Table for $name {
            fn span(&self) -> std::ops::Range<usize> {
                self.span.clone()
            }

            fn written(&self) -> &[String] {
                &self.written
            }
        }

        impl $crate::policy::load::table::Read for $name {
            fn read(
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                findings: &mut $crate::policy::load::table::Findings<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$( key!($field $($key)?) ),+];
                let fields = $crate::policy::load::table::Fields::open(value, $title, KEYS, findings)?;
                Some(Self {
                    span: fields.span(),
                    written: fields.written(),
                    $( $field: fields.$need(key!($field $($key)?), findings), )+
                })
            }

            fn schema() -> serde_json::Value {
                $crate::policy::load::table::table_schema(
                    &[$($doc),+],
                    vec![$( $crate::policy::load::table::Property {
                        key: key!($field $($key)?),
                        doc: &[$($field_doc),+],
                        need: stringify!($need),
                        schema: <$type as $crate::policy::load::table::Read>::schema(),
                    } ),+],
                )
            }
        }
    };
}

pub(super) use {key, table};
