//! kubectl's words, told apart as its parser does (spf13/pflag and spf13/cobra): options may stand anywhere, long names are never
//! shortened, and before a subcommand only global options are read rightly.

/// Options of every subcommand (kubectl reference, `kubectl options`).
const GLOBAL_FLAGS: &str =
    "-h --help --disable-compression --insecure-skip-tls-verify --match-server-version --warnings-as-errors";

/// The same with a value.
const GLOBAL_VALUES: &str = "-n --namespace --context --cluster --user --request-timeout -v --v --vmodule --log-flush-frequency -s --server --token \
    --kubeconfig --kuberc --as --as-group --as-uid --as-user-extra --cache-dir --certificate-authority --client-certificate --client-key \
    --tls-server-name --password --username --profile --profile-output";

/// Subcommands that have subcommands of their own.
const GROUPS: [&str; 14] = [
    "apply",
    "auth",
    "certificate",
    "cluster-info",
    "config",
    "create",
    "create secret",
    "create service",
    "create svc",
    "kuberc",
    "plugin",
    "rollout",
    "set",
    "top",
];

/// Options of a subcommand beside the global ones, with blanks between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) flags: &'static str,
    pub(super) values: &'static str,
}

/// Words without those that name the subcommand.
#[derive(Debug, Default)]
pub(super) struct Split<'a> {
    /// Options as written, without their value.
    pub(super) options: Vec<(String, Option<&'a str>)>,
    /// Operands before `--`; `None` where only the running shell knows.
    pub(super) operands: Vec<Option<&'a str>>,
    /// What stands after `--`.
    pub(super) after: Option<Vec<Option<&'a str>>>,
    /// A word could be an option, or more than one word.
    pub(super) dynamic: bool,
}

impl<'a> Split<'a> {
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(name, _)| names.contains(&name.as_str()))
    }

    /// Values of an option by any of its names.
    pub(super) fn values<'s>(&'s self, names: &'s [&str]) -> impl Iterator<Item = Option<&'a str>> + 's {
        self.options.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| *value)
    }

    /// The last value counts.
    pub(super) fn last(&self, names: &[&str]) -> Option<&'a str> {
        self.values(names).last().flatten()
    }

    /// Operands on both sides of `--`.
    pub(super) fn all(&self) -> Vec<Option<&'a str>> {
        self.operands.iter().chain(self.after.iter().flatten()).copied().collect()
    }
}

fn lists(names: &str, name: &str) -> bool {
    names.split_whitespace().any(|known| known == name)
}

/// The words that name the subcommand, and the others. `None` when only the running shell knows them.
pub(super) fn path(arguments: &[Option<String>]) -> Option<(String, Vec<Option<&str>>)> {
    let globals = Spec { flags: "", values: "" };
    let mut path = String::new();
    let mut rest = Vec::new();
    let mut words = arguments.iter().map(Option::as_deref);
    while path.is_empty() || GROUPS.contains(&path.as_str()) {
        let Some(word) = words.next() else { break };
        let Some(word) = word else {
            if path.is_empty() || !matches!(path.as_str(), "apply" | "create" | "cluster-info") {
                return None;
            }
            rest.push(None);
            break;
        };
        if word == "--" || !word.starts_with('-') || word == "-" {
            if word == "--" || !is_name(word) {
                rest.push(Some(word));
                break;
            }
            if !path.is_empty() {
                path.push(' ');
            }
            path.push_str(word);
            continue;
        }
        rest.push(Some(word));
        match globals.step(word) {
            Some(false) => {}
            Some(true) => rest.push(words.next()?),
            None => break,
        }
    }
    rest.extend(words);
    Some((path, rest))
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Spec {
    fn is_flag(&self, name: &str) -> bool {
        lists(GLOBAL_FLAGS, name) || lists(self.flags, name)
    }

    fn is_value(&self, name: &str) -> bool {
        // The same letter may be a flag of the subcommand.
        !lists(self.flags, name) && (lists(GLOBAL_VALUES, name) || lists(self.values, name))
    }

    /// Whether an option takes the next word; `None` when it is not known.
    fn step(&self, word: &str) -> Option<bool> {
        let mut takes = false;
        self.options(word, |_, value, needs| takes = needs && value.is_none())?;
        Some(takes)
    }

    /// Options in one word: `each` gets their names, the value in the same word, and whether they need one.
    fn options<'w>(&self, word: &'w str, mut each: impl FnMut(String, Option<&'w str>, bool)) -> Option<()> {
        if word.starts_with("--") {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let needs = self.is_value(name);
            if !needs && !self.is_flag(name) {
                return None;
            }
            each(name.to_owned(), value, needs);
            return Some(());
        }
        let mut letters = word.strip_prefix('-')?.chars();
        while let Some(letter) = letters.next() {
            let name = format!("-{letter}");
            if self.is_value(&name) {
                let value = Some(letters.as_str()).filter(|value| !value.is_empty());
                each(name, value.map(|value| value.strip_prefix('=').unwrap_or(value)), true);
                return Some(());
            }
            if !self.is_flag(&name) {
                return None;
            }
            each(name, None, false);
        }
        Some(())
    }

    /// Tells words apart; `None` when an option is not known or has no value.
    pub(super) fn split<'a>(&self, words: &[Option<&'a str>]) -> Option<Split<'a>> {
        let mut split = Split::default();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            let Some(word) = word else {
                split.dynamic = true;
                split.operands.push(None);
                continue;
            };
            if word == "--" {
                split.after = Some(rest.collect());
                break;
            }
            if !word.starts_with('-') || word == "-" {
                // A file's name that begins with a minus may come of it.
                split.dynamic |= word.starts_with(['*', '?', '[']);
                split.operands.push(Some(word));
                continue;
            }
            let mut open = false;
            self.options(word, |name, value, needs| {
                open = needs && value.is_none();
                split.options.push((name, value));
            })?;
            if open {
                let value = rest.next()?;
                // Without quotes it could be several words.
                split.dynamic |= value.is_none();
                if let Some(last) = split.options.last_mut() {
                    last.1 = value;
                }
            }
        }
        Some(split)
    }
}
