//! Manifests on kubectl's input, as far as they are beyond doubt: plain block mappings whose kind and name are plain words.

use super::names::Target;

/// An object that a manifest holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) target: Target,
    pub(super) namespace: Option<String>,
}

/// Objects of a text; `None` when any of it could be read otherwise.
pub(super) fn objects(text: &str) -> Option<Vec<Object>> {
    let strange = |line: &str| {
        line.starts_with("...")
            || line.starts_with('%')
            || (line.starts_with("---") && line.trim_end() != "---")
    };
    let control = text.chars().any(|character| character.is_control() && character != '\n');
    let foreign = text.contains(['\u{feff}', '\u{85}', '\u{2028}', '\u{2029}']);
    if control || foreign || text.lines().any(|line| strange(line) || !is_closed(line)) {
        return None;
    }
    let mut documents: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            documents.push(Vec::new());
        } else if let Some(last) = documents.last_mut() {
            last.push(line);
        }
    }
    let filled = documents.iter().filter(|lines| !lines.iter().all(|line| is_blank(line)));
    let all: Option<Vec<Object>> = filled.map(|lines| object(lines)).collect();
    all.filter(|all| !all.is_empty())
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

/// Whether quotes and brackets that begin on a line end on it, so that the next is a line of its own.
fn is_closed(line: &str) -> bool {
    let count = |character: char| line.matches(character).count();
    count('"') % 2 == 0 && count('\'') % 2 == 0 && count('{') == count('}') && count('[') == count(']')
}

fn object(lines: &[&str]) -> Option<Object> {
    let (mut version, mut kind, mut metadata) = (None, None, None);
    for (index, line) in lines.iter().enumerate() {
        if line.trim().is_empty() || line.starts_with([' ', '#']) {
            continue;
        }
        // Items of a list may stand below their key without more blanks.
        if line.starts_with("- ") {
            continue;
        }
        let (key, value) = entry(line)?;
        let slot = match key {
            "apiVersion" => &mut version,
            "kind" => &mut kind,
            "metadata" => {
                if !value.is_empty() || metadata.is_some() {
                    return None;
                }
                let block = lines.get(index + 1..).unwrap_or_default();
                metadata = Some(names(block)?);
                continue;
            }
            // Some readers of JSON take names of any case.
            _ if ["apiversion", "kind", "metadata", "items"].contains(&key.to_ascii_lowercase().as_str()) => {
                return None;
            }
            _ => continue,
        };
        if slot.is_some() {
            return None;
        }
        *slot = Some(plain(value)?);
    }
    let (version, kind, (name, namespace)) = (version?, kind?, metadata?);
    if kind.ends_with("List") {
        return None;
    }
    Some(Object {
        target: Target::of_kind(version, kind).named(name),
        namespace: namespace.map(str::to_owned),
    })
}

/// Name and namespace of the block below `metadata:`.
fn names<'t>(lines: &[&'t str]) -> Option<(Option<&'t str>, Option<&'t str>)> {
    let (mut name, mut namespace) = (None, None);
    let mut indent = None;
    for line in lines {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let own = line.len() - trimmed.len();
        if own == 0 {
            break;
        }
        let first = *indent.get_or_insert(own);
        if own > first {
            continue;
        }
        if own < first {
            return None;
        }
        if trimmed.starts_with("- ") {
            continue;
        }
        let (key, value) = entry(trimmed)?;
        let slot = match key {
            "name" => &mut name,
            "namespace" => &mut namespace,
            _ if ["name", "namespace"].contains(&key.to_ascii_lowercase().as_str()) => return None,
            _ => continue,
        };
        if slot.is_some() {
            return None;
        }
        *slot = Some(plain(value)?);
    }
    Some((name, namespace))
}

/// `key: value` or `key:`, the key a plain word.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain && (value.is_empty() || value.starts_with(' '))).then_some((key, value.trim()))
}

/// A word that YAML can only read as itself.
fn plain(value: &str) -> Option<&str> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/');
    let starts = value.starts_with(|first: char| first.is_ascii_alphanumeric());
    (starts && value.bytes().all(letters)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::kubernetes::Verb;

    fn read(text: &str) -> Option<Vec<String>> {
        let found = objects(text)?;
        let asked = found
            .iter()
            .map(|object| object.target.asked(Verb::Patch, None, object.namespace.as_deref()).object());
        Some(asked.collect())
    }

    #[test]
    fn plain_manifests_say_what_they_hold() {
        for (text, expected) in [
            ("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n", "configmaps/a"),
            (
                "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  namespace: p\n  labels:\n    name: x\n  name: a\nspec:\n  x: 1\n",
                "p/deployments/a",
            ),
            ("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n", "namespaces/a"),
            ("apiVersion: example.com/v1\nkind: Pod\nmetadata:\n  name: a\n", "pod/a"),
        ] {
            assert_eq!(read(text).unwrap_or_default(), [expected], "{text}");
        }
        let two = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: b\n";
        assert_eq!(read(two).unwrap_or_default(), ["pods/a", "secrets/b"]);
    }

    #[test]
    fn what_could_be_read_otherwise_is_not_read() {
        for text in [
            "",
            "kind: Pod\nmetadata:\n  name: a\n",
            "{\"kind\": \"Pod\"}",
            "apiVersion: v1\nkind: Pod\nkind: Secret\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: Pod\nKind: Secret\nmetadata:\n  name: a\n",
            "apiVersion: v1\n\"kind\": Secret\nkind: Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: &a Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            "apiVersion: v1\nkind: List\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: List\nitems:\n- kind: Secret\nmetadata:\n  name: a\n",
            "apiVersion: v1\nx: \"\nkind: Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nx: {\nkind: Pod\nmetadata:\n  name: a\n}\n",
            "apiVersion: v1\n<<: *x\nkind: Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n... \n",
            "--- {kind: Secret}\napiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind:\tPod\nmetadata:\n  name: a\n",
            "apiVersion: v1\nkind: Pod\nmetadata:\n    name: a\n  name: b\n",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
