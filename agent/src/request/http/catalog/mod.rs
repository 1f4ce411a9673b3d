//! Catalogues of known APIs: which call a method and path are, and how far it reaches. Each is a readable table.
//!
//! ```text
//! @api github
//! @hosts api.github.com
//! @prefix /api/v3 *
//! DELETE /repos/{owner}/{repo}  ddl  repos/delete
//! ```
//! `@hosts` lists globs over hosts; `@prefix PREFIX HOST…` adds hosts below whose prefix the same paths live. A line gives
//! method (or `*`), path pattern, effect and name. Where several match, the first counts; a path with two readings takes
//! the highest effect of all.

use std::collections::HashMap;
use std::sync::LazyLock;

use globset::{Glob, GlobMatcher};

use super::path::PathPattern;
use super::{HttpRequest, Path, Reading};
use crate::request::Effect;

/// What a known call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Its name, lower case.
    pub(super) kind: String,
    /// How far it reaches.
    pub(super) effect: Effect,
    /// Why.
    pub(super) reason: Option<String>,
    /// No other reading of the request is possible.
    pub(super) certain: bool,
}

const TABLES: [&str; 6] = [
    include_str!("git.txt"),
    include_str!("github.txt"),
    include_str!("gitlab.txt"),
    include_str!("models.txt"),
    include_str!("slack.txt"),
    include_str!("stripe.txt"),
];

/// Every table, compiled once.
static CATALOGUES: LazyLock<Vec<Catalogue>> =
    LazyLock::new(|| TABLES.iter().flat_map(|text| parse(text).unwrap_or_default()).collect());

/// One API.
#[derive(Debug)]
struct Catalogue {
    api: String,
    hosts: Vec<GlobMatcher>,
    /// Hosts on which the paths live below a prefix.
    prefixed: Vec<(PathPattern, usize, Vec<GlobMatcher>)>,
    /// By method and number of segments, for patterns of fixed length.
    exact: HashMap<(String, usize), Vec<Entry>>,
    /// Patterns with `**`, by method.
    open: HashMap<String, Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    pattern: PathPattern,
    effect: Effect,
    name: String,
}

/// What a request calls, if a catalogue knows it.
pub(super) fn lookup(request: &HttpRequest) -> Option<Call> {
    CATALOGUES.iter().find_map(|catalogue| catalogue.lookup(request))
}

impl Catalogue {
    fn lookup(&self, request: &HttpRequest) -> Option<Call> {
        let named = |globs: &[GlobMatcher]| globs.iter().any(|glob| glob.is_match(&request.host));
        if named(&self.hosts) {
            return self.call(&request.method, &request.path);
        }
        let (_, skipped, _) = self
            .prefixed
            .iter()
            .find(|(prefix, _, hosts)| named(hosts) && prefix.matches(&request.path) == Reading::Yes)?;
        let below = request.path.segments().get(*skipped..)?;
        let path = Path::parse(&format!("/{}", encode(below))).ok()?;
        self.call(&request.method, &path)
    }

    fn call(&self, method: &str, path: &Path) -> Option<Call> {
        let mut found: Vec<(&Entry, Reading)> = Vec::new();
        for method in [method, "*"] {
            for reading in path.readings() {
                let exact = self.exact.get(&(method.to_owned(), reading.len()));
                let open = self.open.get(method);
                for entry in exact.into_iter().flatten().chain(open.into_iter().flatten()) {
                    let reading = entry.pattern.matches(path);
                    if reading != Reading::No && !found.iter().any(|(known, _)| known.line == entry.line) {
                        found.push((entry, reading));
                    }
                }
            }
        }
        found.sort_by_key(|(entry, _)| entry.line);
        let (first, reading) = found.first()?;
        if *reading == Reading::Yes {
            return Some(self.known(first, first.effect, true));
        }
        let highest = found.iter().map(|(entry, _)| entry.effect).max()?;
        Some(self.known(first, highest, false))
    }

    fn known(&self, entry: &Entry, effect: Effect, certain: bool) -> Call {
        let kind = format!("{} {}", self.api, entry.name);
        let reason = (effect == Effect::Admin).then(|| "changes who may do what".to_owned());
        Call { kind, effect, reason, certain }
    }
}

fn encode(segments: &[String]) -> String {
    let encoded = segments.iter().map(|segment| {
        percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC).to_string()
    });
    encoded.collect::<Vec<_>>().join("/")
}

/// Reads one table. A table has one `@api` line per API; several may stand in one file.
fn parse(text: &str) -> Result<Vec<Catalogue>, String> {
    let mut catalogues: Vec<Catalogue> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        match (words.as_slice(), catalogues.last_mut()) {
            (["@api", api], _) => catalogues.push(Catalogue {
                api: (*api).to_owned(),
                hosts: Vec::new(),
                prefixed: Vec::new(),
                exact: HashMap::new(),
                open: HashMap::new(),
            }),
            (["@hosts", hosts @ ..], Some(catalogue)) => catalogue.hosts = globs(hosts)?,
            (["@prefix", prefix, hosts @ ..], Some(catalogue)) => {
                let segments = prefix.split('/').filter(|segment| !segment.is_empty()).count();
                let pattern = PathPattern::parse(&format!("{prefix}/**"))?;
                catalogue.prefixed.push((pattern, segments, globs(hosts)?));
            }
            ([method, pattern, effect, name], Some(catalogue)) => {
                let pattern = PathPattern::parse(pattern)?;
                let effect = effect_of(effect).ok_or_else(|| wrong("no such effect"))?;
                let entry = Entry { line: number, effect, name: (*name).to_lowercase(), pattern };
                let segments = entry.pattern.text().split('/').filter(|part| !part.is_empty()).count();
                let place = if entry.pattern.text().contains("**") {
                    catalogue.open.entry((*method).to_owned())
                } else {
                    let key = ((*method).to_owned(), segments);
                    catalogue.exact.entry(key).or_default().push(entry);
                    continue;
                };
                place.or_default().push(entry);
            }
            (_, _) => return Err(wrong("not understood")),
        }
    }
    Ok(catalogues)
}

fn globs(hosts: &[&str]) -> Result<Vec<GlobMatcher>, String> {
    let compile =
        |host: &&str| Glob::new(host).map(|glob| glob.compile_matcher()).map_err(|error| error.to_string());
    hosts.iter().map(compile).collect()
}

fn effect_of(word: &str) -> Option<Effect> {
    Some(match word {
        "read" => Effect::Read,
        "write" => Effect::Write,
        "ddl" => Effect::Ddl,
        "admin" => Effect::Admin,
        "unknown" => Effect::Unknown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_read_to_its_end() {
        for text in TABLES {
            let catalogues = parse(text).unwrap();
            assert!(!catalogues.is_empty());
            for catalogue in &catalogues {
                assert!(!catalogue.exact.is_empty() || !catalogue.open.is_empty(), "{}", catalogue.api);
            }
        }
    }
}
