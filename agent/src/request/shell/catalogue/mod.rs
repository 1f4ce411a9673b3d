//! What programs do: the shipped catalogue, and how one command line is looked up in it.

mod words;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::request::Effect;
use crate::request::ssh::{Access, PathUse};

use words::{Words, readings, values_of};

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
    flags: Vec<String>,
    writes: Vec<String>,
    assigns: Option<Effect>,
    schemes: Vec<String>,
    verbs: Vec<String>,
    raise: Vec<Raise>,
    sub: BTreeMap<String, Sub>,
    operands_max: Option<usize>,
    effect_operands: Option<Effect>,
    kind_operands: Option<String>,
    read_if: Vec<String>,
    read_without_operands: bool,
    only_if_alone: bool,
    creates: bool,
    last_word: BTreeMap<String, Effect>,
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
    /// As `write`, but for the first where there are more: a mode or an owner.
    RestWrite,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raise {
    any: Vec<String>,
    effect: Effect,
    kind: Option<String>,
    /// Programs that take these options before their subcommand alone, and refuse them after it.
    #[serde(default)]
    only_before_in: Vec<String>,
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
    flags: Vec<String>,
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

/// Why, where an option or a subcommand could stand in a word that is not known.
const DYNAMIC: &str = "an argument is known to the running shell alone";

/// Looks a command up; `None` when nobody wrote down what the program does.
pub(super) fn look_up(program: &str, arguments: &[Option<String>]) -> Option<Known> {
    let rule = CATALOGUE.get(program)?;
    let words = Words::of(&rule.values, arguments);
    let destroys = matches!(rule.effect.0, Effect::Admin | Effect::Ddl) && rule.sub.is_empty();
    if matches!(arguments, [Some(only)] if only == "--version") && !destroys {
        return Some(Known {
            kind: program.to_owned(),
            effect: Effect::Read,
            reason: None,
            paths: Vec::new(),
        });
    }
    let mut known = Known {
        kind: rule.kind.clone().unwrap_or_else(|| program.to_owned()),
        effect: rule.effect.0,
        reason: None,
        paths: rule.paths(&words),
    };
    if rule.sub.is_empty() && rule.verbs.is_empty() {
        rule.apply(&words, &mut known);
    } else {
        known = rule.of_sub(&words, &known, program, arguments);
    }
    for raise in &rule.raise {
        raise.apply(&words, &mut known);
    }
    if words.operands.iter().any(|word| rule.schemes.iter().any(|scheme| word.starts_with(scheme))) {
        known.effect = Effect::Unknown;
    }
    rule.written(arguments, &mut known);
    let changes = rule.paths.is_some_and(|what| what != Operands::Read) && !rule.creates;
    if words.dynamic && changes && known.effect > Effect::Read && known.effect < Effect::Admin {
        // The file that it changes could be any.
        known.effect = Effect::Admin;
        known.reason = Some(DYNAMIC);
    }
    if words.could_be_options
        && let Some(worst) = rule.worst(program)
    {
        // What only the running shell knows could be any of these options.
        if worst > known.effect {
            known.effect = worst;
            known.reason = Some(DYNAMIC);
        }
    }
    Some(known)
}

impl Rule {
    /// The farthest that an option makes it reach.
    fn worst(&self, program: &str) -> Option<Effect> {
        let anywhere = |raise: &&Raise| !raise.only_before_in.iter().any(|known| known == program);
        let options = self.raise.iter().filter(anywhere).map(|raise| raise.effect);
        options.chain((!self.writes.is_empty()).then_some(Effect::Write)).max()
    }

    /// What it does by its subcommand. An option that nobody wrote down may take the next word as its value, or not: the
    /// farthest of both counts.
    fn of_sub(&self, words: &Words<'_>, known: &Known, program: &str, arguments: &[Option<String>]) -> Known {
        let Some(readings) = readings(&self.values, &self.flags, arguments, |words| self.goes_on(words))
        else {
            let reason = Some("its subcommand is known to the running shell alone");
            return Known { effect: Effect::Unknown, reason, ..known.clone() };
        };
        let with_options = self.sub_at(&words.after_globals).filter(|(name, _)| name.contains('-'));
        let sure = words.operands.first().copied().unwrap_or_default();
        if let Some((name, sub)) = with_options
            && (name.starts_with('-') || readings.iter().all(|reading| reading.first() == Some(&sure)))
        {
            let mut found = known.clone();
            self.apply_sub(sub, &name, words, &mut found, program);
            return found;
        }
        let each = readings.iter().map(|reading| {
            let mut found = known.clone();
            match self.sub_at(reading) {
                Some((name, sub)) => self.apply_sub(sub, &name, words, &mut found, program),
                None => {
                    self.apply(words, &mut found);
                    let verb = reading.get(1).copied().unwrap_or_default();
                    if self.verbs.iter().any(|known| verb.starts_with(known)) {
                        found.effect = Effect::Read;
                    }
                }
            }
            found
        });
        each.max_by_key(|found| found.effect).unwrap_or_else(|| known.clone())
    }

    /// Whether one more word could make another subcommand of these.
    fn goes_on(&self, words: &[&str]) -> bool {
        let begun = words.join(" ");
        let longer = |name: &String| name.strip_prefix(&begun).is_some_and(|rest| rest.starts_with(' '));
        words.is_empty() || (words.len() < 2 && !self.verbs.is_empty()) || self.sub.keys().any(longer)
    }

    /// The subcommand that words begin with, by the most of them.
    fn sub_at(&self, words: &[&str]) -> Option<(String, &Sub)> {
        (1..=SUB_WORDS_MAX.min(words.len())).rev().find_map(|length| {
            let name = words.iter().take(length).copied().collect::<Vec<_>>().join(" ");
            self.sub.get(&name).map(|sub| (name, sub))
        })
    }

    /// Files that options name to be written.
    fn written(&self, arguments: &[Option<String>], known: &mut Known) {
        for option in &self.writes {
            for path in values_of(arguments, option) {
                known.effect = known.effect.max(Effect::Write);
                let path = path.unwrap_or_default();
                if !["-", "/dev/null", "/dev/stdout", "/dev/stderr"].contains(&path.as_str()) {
                    known.paths.push(PathUse { path, access: Access::Write });
                }
            }
        }
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
                let parts = name.split(' ').filter(|part| !part.starts_with('-')).count();
                let listed = words.only(&[&more.read_if, &more.flags, &self.flags], &self.values, name);
                match more.bare {
                    Some(bare) if words.operands.len() == parts && listed && !words.dynamic => {
                        known.effect = bare
                    }
                    Some(_) | None => {}
                }
                if more.read_if.iter().any(|option| words.has_exactly(option))
                    && listed
                    && !words.could_be_options
                {
                    known.effect = Effect::Read;
                }
                for raise in &more.raise {
                    raise.apply(words, known);
                    // What only the running shell knows could be this option.
                    if words.could_be_options && raise.effect > known.effect {
                        known.effect = raise.effect;
                        known.reason = Some(DYNAMIC);
                    }
                }
            }
        }
    }

    fn apply(&self, words: &Words<'_>, known: &mut Known) {
        if self.operands_max.is_some_and(|max| words.operands.len() > max || words.dynamic) {
            known.effect = self.effect_operands.unwrap_or(Effect::Write);
            if let Some(kind) = &self.kind_operands {
                known.kind.clone_from(kind);
            }
        }
        let alone = !self.only_if_alone || words.count == 1;
        let asked = self
            .read_if
            .iter()
            .any(|option| words.has_exactly(option) || words.operands.first() == Some(&option.as_str()));
        if alone && asked && !words.dynamic && words.only(&[&self.read_if, &self.flags], &self.values, "") {
            known.effect = Effect::Read;
            for path in &mut known.paths {
                path.access = Access::Read;
            }
        }
        if self.read_without_operands
            && words.operands.is_empty()
            && !words.dynamic
            && words.only(&[&self.read_if, &self.flags], &self.values, "")
        {
            known.effect = Effect::Read;
        }
        if let ([_, last], true) = (words.operands.as_slice(), words.options.is_empty() && !words.dynamic)
            && let Some(effect) = self.last_word.get(*last)
        {
            known.effect = *effect;
        }
        if let Some(effect) = self.assigns
            && words.operands.iter().any(|word| word.contains('='))
        {
            known.effect = known.effect.max(effect);
        }
    }

    fn paths(&self, words: &Words<'_>) -> Vec<PathUse> {
        let Some(what) = self.paths else { return Vec::new() };
        let last = words.operands.len().saturating_sub(1);
        if self.operands_max.is_some_and(|max| words.operands.len() <= max) {
            return Vec::new();
        }
        let access = |index| match what {
            Operands::Read => Access::Read,
            Operands::Write | Operands::RestWrite => Access::Write,
            Operands::Remove => Access::Remove,
            Operands::LastWrite if index == last => Access::Write,
            Operands::LastWrite => Access::Read,
        };
        let first = words.operands.first().copied().unwrap_or_default();
        let skipped = usize::from(what == Operands::RestWrite && last > 0 && !first.contains('/'));
        // `ln -s /x`: the link is made where the command runs.
        let here = what == Operands::LastWrite && last == 0 && self.operands_max.is_none();
        let here = here.then(|| PathUse { path: ".".to_owned(), access: Access::Write });
        let operands = words.operands.iter().enumerate().skip(skipped);
        let named = operands.map(|(index, path)| PathUse { path: (*path).to_owned(), access: access(index) });
        named.chain(here).collect()
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
        // It could be any file, those of the system among them.
        assert_eq!(known.effect, Effect::Admin);
        assert_eq!(look_up("git", &[None]).unwrap().effect, Effect::Unknown);
        assert_eq!(look_up("cat", &[None]).unwrap().effect, Effect::Read);
    }
}
