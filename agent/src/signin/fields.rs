//! Fields of forms and queries, each once, all of it bounded.

/// Fields of one form or query.
const FIELDS_MAX: usize = 32;
/// A form's or query's fields (application/x-www-form-urlencoded, URL Standard section 5).
#[derive(Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// `None` when a field comes twice or there are too many: servers differ in which one counts.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(bytes).into_owned() {
            if fields.len() >= FIELDS_MAX || fields.iter().any(|(known, _)| *known == name) {
                return None;
            }
            fields.push((name, value));
        }
        Some(Self(fields))
    }

    /// A field's text; empty when it is not there.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// A field's text.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_counts_once() {
        let fields = Fields::parse(b"reason=a+b%26c&empty=").unwrap();
        assert_eq!((fields.get("reason"), fields.get("empty"), fields.get("none")), ("a b&c", "", ""));
        assert_eq!(fields.find("none"), None);
        assert!(Fields::parse(b"a=1&a=2").is_none());
        let many: String = (0..33).map(|number| format!("{number}=&")).collect();
        assert!(Fields::parse(many.as_bytes()).is_none());
    }
}
