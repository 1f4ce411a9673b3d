//! Options of a program whose every option is known: getopt's conventions, without beginnings of long names.

/// What options a program has. Whatever is not listed is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a> {
    /// Letters without a value.
    flags: &'a str,
    /// Letters with a value, in the same word or the next.
    values: &'a str,
    /// Long names without a value, though some take one after `=`.
    long_flags: &'a [&'a str],
    /// Long names with a value, after `=` or as the next word.
    long_values: &'a [&'a str],
}

impl<'a> Options<'a> {
    pub(super) const fn new(
        flags: &'a str,
        values: &'a str,
        long_flags: &'a [&'a str],
        long_values: &'a [&'a str],
    ) -> Self {
        Self { flags, values, long_flags, long_values }
    }

    /// How many words are options and their values, with a `--` that ends them; `None` when one of them is not known.
    pub(super) fn skip(&self, arguments: &[Option<String>]) -> Option<usize> {
        let mut at = 0;
        while let Some(Some(word)) = arguments.get(at) {
            let Some(step) = self.step(word)? else { break };
            at += step;
            if word == "--" {
                break;
            }
        }
        Some(at.min(arguments.len()))
    }

    /// How many words an option takes: `Some(None)` for a word that is none, `None` for one that is not known.
    #[expect(clippy::option_option, reason = "no option and no knowledge of it are different answers")]
    pub(super) fn step(&self, word: &str) -> Option<Option<usize>> {
        if word == "--" {
            return Some(Some(1));
        }
        if word == "-" || !word.starts_with('-') {
            return Some(None);
        }
        if word.starts_with("--") {
            let name = word.split('=').next().unwrap_or_default();
            return if self.long_flags.contains(&name) {
                Some(Some(1))
            } else if self.long_values.contains(&name) {
                Some(Some(if word.contains('=') { 1 } else { 2 }))
            } else {
                None
            };
        }
        let mut letters = word.trim_start_matches('-').chars();
        while let Some(letter) = letters.next() {
            if self.values.contains(letter) {
                return Some(Some(if letters.as_str().is_empty() { 2 } else { 1 }));
            }
            if !self.flags.contains(letter) {
                return None;
            }
        }
        Some(Some(1))
    }

    /// The value that words which `skip` went over give to an option: the last one counts. `Some(None)` where only the running
    /// shell knows it.
    #[expect(
        clippy::option_option,
        reason = "not given and given by the running shell are different answers"
    )]
    pub(super) fn value(&self, given: &[Option<String>], letter: char, long: &str) -> Option<Option<String>> {
        let mut found = None;
        let mut rest = given.iter();
        while let Some(Some(word)) = rest.next() {
            let takes_next = self.step(word) == Some(Some(2));
            let next = if takes_next { rest.next() } else { None };
            if word == long {
                found = Some(next.cloned().flatten());
            } else if let Some(value) = word.strip_prefix(long).and_then(|value| value.strip_prefix('=')) {
                found = Some(Some(value.to_owned()));
            } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.starts_with('-')) {
                let at = cluster.find(|given| self.values.contains(given));
                let (_, tail) = cluster.split_at(at.unwrap_or(cluster.len()));
                if let Some(value) = tail.strip_prefix(letter) {
                    found =
                        Some(if value.is_empty() { next.cloned().flatten() } else { Some(value.to_owned()) });
                }
            }
        }
        found
    }
}

/// Words of a program whose options may stand anywhere among its operands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Names of options (`-o`, `--output`) with their values; empty for flags.
    pub(super) options: Vec<(String, String)>,
    pub(super) operands: Vec<String>,
}

impl Parsed {
    /// Values of an option by any of its names.
    pub(super) fn values<'p>(&'p self, names: &'p [&str]) -> impl Iterator<Item = &'p str> {
        let named = self.options.iter().filter(|(name, _)| names.contains(&name.as_str()));
        named.map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.values(names).next().is_some()
    }
}

impl Options<'_> {
    /// All words; `None` when one of the options is not known or has no value.
    pub(super) fn parse(&self, words: &[&str]) -> Option<Parsed> {
        let mut parsed = Parsed::default();
        let mut rest = words.iter();
        let mut only_operands = false;
        while let Some(word) = rest.next() {
            let step = if only_operands { None } else { self.step(word)? };
            let Some(step) = step else {
                parsed.operands.push((*word).to_owned());
                continue;
            };
            if *word == "--" {
                only_operands = true;
                continue;
            }
            let mut next = || if step == 2 { rest.next().map(|value| (*value).to_owned()) } else { None };
            if word.starts_with("--") {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (*word, if step == 2 { Some(next()?) } else { None }),
                };
                parsed.options.push((name.to_owned(), value.unwrap_or_default()));
                continue;
            }
            let mut letters = word.strip_prefix('-')?.chars();
            while let Some(letter) = letters.next() {
                let name = format!("-{letter}");
                if self.values.contains(letter) {
                    let attached = letters.as_str();
                    let value = if attached.is_empty() { next()? } else { attached.to_owned() };
                    parsed.options.push((name, value));
                    break;
                }
                parsed.options.push((name, String::new()));
            }
        }
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn words(line: &str) -> Vec<Option<String>> {
        line.split(' ').map(|word| Some(word.to_owned())).collect()
    }

    #[test]
    fn options_end_where_the_program_ends_them() {
        let options = Options::new("iv", "uC", &["--null"], &["--user"]);
        for (line, expected) in [
            ("ls -l", Some(0)),
            ("-iv ls", Some(1)),
            ("-u root ls", Some(2)),
            ("-uroot ls", Some(1)),
            ("-ivu root ls", Some(2)),
            ("--user root ls", Some(2)),
            ("--user=root ls", Some(1)),
            ("--null -- -x", Some(2)),
            ("-x ls", None),
            ("--us root ls", None),
            ("-u", Some(1)),
        ] {
            assert_eq!(options.skip(&words(line)), expected, "{line}");
        }
    }

    #[test]
    fn the_last_value_counts() {
        let options = Options::new("iv", "uC", &[], &["--chdir"]);
        for (line, expected) in [
            ("-C /etc", Some("/etc")),
            ("-iC/etc", Some("/etc")),
            ("--chdir=/etc", Some("/etc")),
            ("-C /srv --chdir /etc", Some("/etc")),
            ("-u C", None),
            ("-uC", None),
        ] {
            let value = options.value(&words(line), 'C', "--chdir");
            assert_eq!(value.flatten().as_deref(), expected, "{line}");
        }
    }
}
