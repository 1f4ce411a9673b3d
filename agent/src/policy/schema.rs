//! The JSON Schema of a policy file, for editors and for other tools that check one.

use serde_json::{Value, json};

use super::load::file_schema;

/// The schema (draft 2020-12). It is generated from the tables the loader reads with, so a key is accepted if and only
/// if it is described here; what spans several keys (a hint needs a deny) only the loader checks.
#[must_use]
pub fn schema() -> Value {
    let mut schema = file_schema();
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".to_owned(), json!("Portcullis policy"));
    }
    schema
}
