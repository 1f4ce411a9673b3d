//! What programs do: the shipped catalogue, and how one command line is looked up in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::request::Effect;
use crate::request::ssh::{Access, PathUse};

/// Words of a subcommand's name at most.
const SUB_WORDS_MAX: usize = 3;

static CATALOGUE: LazyLock<HashMap<String, Rule>> = LazyLock::new(|| {
    // The text is part of the program: a test would have failed first.
    #[expect(clippy::expect_used, reason = "the text is a constant, and tests read it")]
    let file: File = toml::from_str(include_str!("programs.toml")).expect("the catalogue");
    let mut rules = HashMap::new();
    for rule in file.program {
        for name in &rule.names {
            rules.entry(name.clone()).or_insert_with(|| rule.clone());
        }
    }
    rules
});

#[derive(Deserialize)]
struct File {
    program: Vec<Rule>,
}

/// One program, or several that are alike. The catalogue's head explains the keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    effect: Reach,
    kind: Option<String>,
    paths: Option<Operands>,
    values: Vec<String>,
    raise: Vec<Raise>,
    sub: BTreeMap<String, Sub>,
    operands_max: Option<usize>,
    effect_operands: Option<Effect>,
    kind_operands: Option<String>,
    read_if: Vec<String>,
    read_without_operands: bool,
    only_if_alone: bool,
    read_if_only: bool,
    last_word: BTreeMap<String, Effect>,
    operand_with: BTreeMap<String, Effect>,
    plus: Option<Effect>,
}

/// How far, where nothing is written: what is not known is feared.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
struct Reach(Effect);

impl Default for Reach {
    fn default() -> Self {
        Self(Effect::Unknown)
    }
}

/// What is done with a program's operands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Operands {
    Read,
    Write,
    Remove,
    LastWrite,
    /// All but the first, which is a mode or an owner.
    RestWrite,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raise {
    any: Vec<String>,
    effect: Effect,
    kind: Option<String>,
}

/// A subcommand: its effect alone, or more.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Sub {
    Plain(Effect),
    More(SubRule),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubRule {
    effect: Effect,
    kind: Option<String>,
    #[serde(default)]
    bare: Option<Effect>,
    #[serde(default)]
    read_if: Vec<String>,
    #[serde(default)]
    raise: Vec<Raise>,
}

/// What the catalogue says of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) kind: String,
    pub(super) effect: Effect,
    pub(super) reason: Option<&'static str>,
    pub(super) paths: Vec<PathUse>,
}

/// Looks a command up; `None` when nobody wrote down what the program does.
pub(super) fn look_up(program: &str, arguments: &[Option<String>]) -> Option<Known> {
    let rule = CATALOGUE.get(program)?;
    let words = Words::of(rule, arguments);
    let (sub_name, sub) = rule.find_sub(&words);
    let mut known = Known {
        kind: rule.kind.clone().unwrap_or_else(|| program.to_owned()),
        effect: rule.effect.0,
        reason: None,
        paths: rule.paths(&words),
    };
    if let Some(sub) = sub {
        rule.apply_sub(sub, &sub_name, &words, &mut known, program);
    } else {
        rule.apply(&words, &mut known);
    }
    for raise in &rule.raise {
        raise.apply(&words, &mut known);
    }
    if let Some(plus) = rule.plus
        && words.options.iter().any(|option| option.starts_with('+'))
    {
        known.effect = known.effect.max(plus);
    }
    let writes = rule.paths.is_some_and(|what| what != Operands::Read);
    if words.dynamic && writes && known.effect < Effect::Admin {
        known.effect = Effect::Admin;
        known.reason = Some("a file that it changes is known to the running shell alone");
    }
    let could_be_more = words.dynamic && known.effect < Effect::Unknown;
    if could_be_more && let Some(worst) = rule.raise.iter().map(|raise| raise.effect).max() {
        // What only the running shell knows could be any of these options.
        if worst > known.effect && worst < Effect::Unknown {
            known.effect = worst;
            known.reason = Some("an argument is known to the running shell alone");
        }
    }
    if words.dynamic && sub.is_none() && !rule.sub.is_empty() {
        known.effect = Effect::Unknown;
        known.reason = Some("its subcommand is known to the running shell alone");
    }
    Some(known)
}

/// The words of a command, told apart.
struct Words<'a> {
    /// All of them, without options (and their values) before the first operand.
    after_globals: Vec<&'a str>,
    options: Vec<&'a str>,
    operands: Vec<&'a str>,
    /// Some are known to the running shell alone.
    dynamic: bool,
    count: usize,
}

impl<'a> Words<'a> {
    fn of(rule: &Rule, arguments: &'a [Option<String>]) -> Self {
        let mut words = Self {
            after_globals: Vec::new(),
            options: Vec::new(),
            operands: Vec::new(),
            dynamic: arguments.iter().any(Option::is_none),
            count: arguments.len(),
        };
        let mut rest = arguments.iter().flatten().map(String::as_str);
        let mut only_operands = false;
        while let Some(word) = rest.next() {
            let is_option = !only_operands && word.len() > 1 && word.starts_with(['-', '+']);
            if word == "--" && !only_operands {
                only_operands = true;
                continue;
            }
            if !is_option {
                words.operands.push(word);
                words.after_globals.push(word);
                continue;
            }
            words.options.push(word);
            if !words.operands.is_empty() {
                words.after_globals.push(word);
            }
            if rule.values.iter().any(|option| option == word) {
                // Its value is neither an option nor an operand.
                rest.next();
            }
        }
        if words.after_globals.is_empty() {
            words.after_globals.clone_from(&words.options);
        }
        words
    }

    /// Whether an option is given: itself, in a cluster of letters, with a value, or by the beginning of its long name.
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| is_option(given, option))
    }
}

fn is_option(given: &str, option: &str) -> bool {
    if given == option {
        return true;
    }
    if let Some(long) = option.strip_prefix("--") {
        let Some(given) = given.strip_prefix("--") else { return false };
        let name = given.split('=').next().unwrap_or(given);
        // GNU programs take any beginning of a name that is clear to them.
        return name == long || (name.len() >= 3 && long.starts_with(name));
    }
    let mut letters = option.chars().skip(1);
    match (letters.next(), letters.next()) {
        (Some(letter), None) => {
            !given.starts_with("--") && given.strip_prefix('-').is_some_and(|given| given.contains(letter))
        }
        // `-out`: openssl and its like.
        (Some(_) | None, _) => given.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')),
    }
}

impl Rule {
    /// The longest name that fits, with the options between its words and without.
    fn find_sub(&self, words: &Words<'_>) -> (String, Option<&Sub>) {
        for length in (1..=SUB_WORDS_MAX).rev() {
            for list in [&words.after_globals, &words.operands] {
                let name = list.iter().take(length).copied().collect::<Vec<_>>().join(" ");
                if let Some(sub) = self.sub.get(&name).filter(|_| list.len() >= length) {
                    return (name, Some(sub));
                }
            }
        }
        (String::new(), None)
    }

    fn apply_sub(&self, sub: &Sub, name: &str, words: &Words<'_>, known: &mut Known, program: &str) {
        if self.kind.is_none() {
            known.kind = format!("{program} {name}");
        }
        match sub {
            Sub::Plain(effect) => known.effect = *effect,
            Sub::More(more) => {
                known.effect = more.effect;
                if let Some(kind) = &more.kind {
                    known.kind.clone_from(kind);
                }
                let alone = words.after_globals.len() == name.split(' ').count();
                match more.bare {
                    Some(bare) if alone && !words.dynamic => known.effect = bare,
                    Some(_) | None => {}
                }
                if more.read_if.iter().any(|option| words.has(option)) {
                    known.effect = Effect::Read;
                }
                for raise in &more.raise {
                    raise.apply(words, known);
                }
            }
        }
    }

    fn apply(&self, words: &Words<'_>, known: &mut Known) {
        if !words.dynamic && self.asks_to_look(words) {
            known.effect = Effect::Read;
        }
        if self.read_without_operands && words.count == 0 {
            known.effect = Effect::Read;
        }
        if let [_, last] = words.operands.as_slice()
            && let Some(effect) = self.last_word.get(*last)
        {
            known.effect = *effect;
        }
        for (text, effect) in &self.operand_with {
            if words.operands.iter().any(|word| word.contains(text)) {
                known.effect = known.effect.max(*effect);
            }
        }
        if self.operands_max.is_some_and(|max| words.operands.len() > max) {
            known.effect = self.effect_operands.unwrap_or(Effect::Write);
            if let Some(kind) = &self.kind_operands {
                known.kind.clone_from(kind);
            }
        }
    }

    /// Whether an option says that nothing is changed.
    fn asks_to_look(&self, words: &Words<'_>) -> bool {
        let known = |word: &str| self.read_if.iter().any(|option| option == word);
        if self.only_if_alone {
            // The whole line is that word: in a cluster of letters others could hide.
            return words.count == 1 && words.options.iter().chain(&words.operands).all(|word| known(word));
        }
        if self.read_if_only {
            return !words.options.is_empty() && words.options.iter().all(|word| known(word));
        }
        self.read_if.iter().any(|option| words.has(option) || words.operands.contains(&option.as_str()))
    }

    fn paths(&self, words: &Words<'_>) -> Vec<PathUse> {
        let Some(what) = self.paths else { return Vec::new() };
        let last = words.operands.len().saturating_sub(1);
        // `cp -t FOLDER FILE`: what is written does not come last.
        let target = words.has("-t") || words.has("--target-directory");
        let referenced = words.has("--reference");
        let access = |index| match what {
            Operands::Read => Access::Read,
            Operands::Write => Access::Write,
            Operands::Remove => Access::Remove,
            Operands::LastWrite if index == last || target => Access::Write,
            Operands::LastWrite => Access::Read,
            Operands::RestWrite => Access::Write,
        };
        let skipped = usize::from(what == Operands::RestWrite && !referenced);
        let operands = words.operands.iter().enumerate().skip(skipped);
        let operands =
            operands.map(|(index, path)| PathUse { path: (*path).to_owned(), access: access(index) });
        let attached =
            words.options.iter().filter(|_| target && what != Operands::Read).filter_map(|option| {
                let path = match option.split_once('=') {
                    Some((_, path)) => path,
                    None => option.split_once('t').filter(|_| !option.starts_with("--"))?.1,
                };
                (!path.is_empty()).then(|| PathUse { path: path.to_owned(), access: Access::Write })
            });
        operands.chain(attached).collect()
    }
}

impl Raise {
    fn apply(&self, words: &Words<'_>, known: &mut Known) {
        if self.effect > known.effect && self.any.iter().any(|option| words.has(option)) {
            known.effect = self.effect;
            if let Some(kind) = &self.kind {
                known.kind.clone_from(kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(line: &str) -> Option<Effect> {
        let mut words = line.split(' ').map(|word| Some(word.to_owned()));
        let program = words.next().flatten().unwrap();
        look_up(&program, &words.collect::<Vec<_>>()).map(|known| known.effect)
    }

    #[test]
    fn options_and_subcommands_decide() {
        for (line, expected) in [
            ("ls -la /etc", Effect::Read),
            ("rm file", Effect::Write),
            ("rm -fr /srv", Effect::Ddl),
            ("rm --recurs /srv", Effect::Ddl),
            ("git -C /srv status", Effect::Read),
            ("git push origin main", Effect::Write),
            ("git push -f", Effect::Ddl),
            ("git branch", Effect::Read),
            ("git branch new", Effect::Write),
            ("git branch -D old", Effect::Ddl),
            ("git config --get user.name", Effect::Read),
            ("git config core.pager x", Effect::Unknown),
            ("git -c core.pager=x log", Effect::Unknown),
            ("kubectl -n prod get pods", Effect::Read),
            ("kubectl delete pod x", Effect::Ddl),
            ("systemctl --no-pager status nginx", Effect::Read),
            ("systemctl restart nginx", Effect::Admin),
            ("crontab -l", Effect::Read),
            ("crontab file", Effect::Admin),
            ("mount", Effect::Read),
            ("mount /dev/sda1 /mnt", Effect::Admin),
            ("hostname", Effect::Read),
            ("hostname evil", Effect::Admin),
            ("python3 --version", Effect::Read),
            ("python3 -V x.py", Effect::Unknown),
            ("date -s tomorrow", Effect::Admin),
            ("apt-get install -y nginx", Effect::Admin),
            ("apt list --installed", Effect::Read),
            ("dpkg -l", Effect::Read),
            ("dpkg -i x.deb", Effect::Admin),
            ("docker ps -a", Effect::Read),
            ("docker volume rm x", Effect::Ddl),
            ("service nginx status", Effect::Read),
            ("service nginx restart", Effect::Admin),
            ("uniq in", Effect::Read),
            ("uniq in out", Effect::Write),
        ] {
            assert_eq!(effect(line), Some(expected), "{line}");
        }
        assert_eq!(effect("frobnicate"), None);
    }

    #[test]
    fn what_nobody_knows_is_feared() {
        let known = look_up("rm", &[None]).unwrap();
        assert_eq!(known.effect, Effect::Admin);
        assert_eq!(look_up("git", &[None]).unwrap().effect, Effect::Unknown);
        assert_eq!(look_up("cat", &[None]).unwrap().effect, Effect::Read);
    }
}
