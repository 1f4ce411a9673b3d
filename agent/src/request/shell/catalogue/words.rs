//! Words of a command, told apart into options, their values and operands.

/// Ways of reading the words at most; beyond it nobody knows.
const READINGS_MAX: usize = 16;

/// The words of a command, told apart.
pub(super) struct Words<'a> {
    /// All of them, without options (and their values) before the first operand.
    pub(super) after_globals: Vec<&'a str>,
    pub(super) options: Vec<&'a str>,
    pub(super) operands: Vec<&'a str>,
    /// Some are known to the running shell alone.
    pub(super) dynamic: bool,
    /// Some of those, or names that a glob finds, could be options.
    pub(super) could_be_options: bool,
    pub(super) count: usize,
}

impl<'a> Words<'a> {
    pub(super) fn of(values: &[String], arguments: &'a [Option<String>]) -> Self {
        let mut words = Self {
            after_globals: Vec::new(),
            options: Vec::new(),
            operands: Vec::new(),
            dynamic: arguments.iter().any(Option::is_none),
            could_be_options: false,
            count: arguments.len(),
        };
        let mut rest = arguments.iter();
        let mut only_operands = false;
        while let Some(word) = rest.next() {
            let Some(word) = word.as_deref() else {
                words.could_be_options |= !only_operands;
                continue;
            };
            let is_option = !only_operands && word.len() > 1 && word.starts_with(['-', '+']);
            if word == "--" && !only_operands {
                only_operands = true;
                continue;
            }
            if !is_option {
                words.could_be_options |= !only_operands && word.starts_with(['*', '?']);
                words.operands.push(word);
                words.after_globals.push(word);
                continue;
            }
            words.options.push(word);
            if !words.operands.is_empty() {
                words.after_globals.push(word);
            }
            if values.iter().any(|option| option == word) {
                // Its value is neither an option nor an operand; one that is not known could be several words.
                words.could_be_options |= rest.next().is_some_and(Option::is_none);
            }
        }
        if words.after_globals.is_empty() {
            words.after_globals.clone_from(&words.options);
        }
        words
    }

    /// Whether an option is given: itself, in a cluster of letters, with a value, or by the beginning of its long name.
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| is_option(given, option))
    }

    /// Whether an option is given so that it cannot be anything else.
    pub(super) fn has_exactly(&self, option: &str) -> bool {
        self.options.iter().any(|given| *given == option || in_cluster(given, option))
    }

    /// Whether all options are in these lists, or part of a subcommand's name.
    pub(super) fn only(&self, lists: &[&Vec<String>], values: &[String], name: &str) -> bool {
        let listed = |option: &str| lists.iter().any(|list| list.iter().any(|known| known == option));
        self.options.iter().all(|given| {
            if listed(given)
                || values.iter().any(|known| known == given)
                || name.split(' ').any(|part| part == *given)
            {
                return true;
            }
            if given.starts_with("--") {
                return given
                    .split_once('=')
                    .is_some_and(|(name, _)| listed(name) || values.iter().any(|known| known == name));
            }
            let letters = given.strip_prefix('-').unwrap_or_default();
            let valued = letters.chars().next().is_some_and(|letter| {
                // `-n5`: a number in the same word.
                (listed(&format!("-{letter}")) || values.contains(&format!("-{letter}")))
                    && letters.chars().skip(1).all(|digit| digit.is_ascii_digit())
            });
            valued || (!letters.is_empty() && letters.chars().all(|letter| listed(&format!("-{letter}"))))
        })
    }
}

/// Whether a cluster of letters has this one-letter option.
fn in_cluster(given: &str, option: &str) -> bool {
    let mut letters = option.strip_prefix('-').unwrap_or_default().chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if letter != '-' => {
            !given.starts_with("--") && given.strip_prefix('-').is_some_and(|given| given.contains(letter))
        }
        (Some(_) | None, _) => false,
    }
}

fn is_option(given: &str, option: &str) -> bool {
    if given == option || in_cluster(given, option) {
        return true;
    }
    if option == "+" {
        return given.starts_with('+');
    }
    if let Some(long) = option.strip_prefix("--") {
        let Some(given) = given.strip_prefix("--") else { return false };
        let name = given.split('=').next().unwrap_or(given);
        // GNU programs take any beginning of a name that is clear to them.
        return !name.is_empty() && long.starts_with(name);
    }
    // `-toolexec=x`: go and its like.
    given.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
}

/// The operands at the beginning, read in every way: an option that is in neither list may take the next word as its value.
/// `None` when only the running shell knows one of them where a subcommand's name goes on, or there are too many ways.
pub(super) fn readings<'a>(
    values: &[String],
    flags: &[String],
    arguments: &'a [Option<String>],
    goes_on: impl Fn(&[&str]) -> bool,
) -> Option<Vec<Vec<&'a str>>> {
    let listed = |list: &[String], option: &str| list.iter().any(|known| known == option);
    let mut readings: Vec<Vec<&str>> = vec![Vec::new()];
    let mut doubtful = false;
    let mut only_operands = false;
    let mut rest = arguments.iter();
    while readings.iter().any(|reading| reading.len() < super::SUB_WORDS_MAX) {
        let Some(word) = rest.next() else { break };
        let Some(word) = word.as_deref() else {
            return (!doubtful && !readings.iter().any(|reading| goes_on(reading))).then_some(readings);
        };
        if word == "--" && !only_operands {
            only_operands = true;
            doubtful = false;
        } else if !only_operands && word.len() > 1 && word.starts_with('-') {
            if listed(values, word) {
                match rest.next() {
                    // Without a value it is another option's letter (`docker logs -f`), or an error of the program's.
                    None => break,
                    Some(value) => value.as_ref()?,
                };
                doubtful = false;
            } else {
                let cluster = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
                let plain = cluster.is_some_and(|letters| {
                    letters.chars().all(|letter| listed(flags, &format!("-{letter}")))
                });
                doubtful = !plain && !word.contains('=') && !listed(flags, word);
            }
        } else {
            let without = if doubtful { readings.clone() } else { Vec::new() };
            for reading in &mut readings {
                reading.push(word);
            }
            readings.extend(without);
            doubtful = false;
        }
        if readings.len() > READINGS_MAX {
            return None;
        }
    }
    Some(readings)
}

/// Values that the words give to an option: `-o X`, `-oX`, `-no X`, `--output X`, `--output=X`, also by a beginning of the name.
pub(super) fn values_of(arguments: &[Option<String>], option: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = arguments.iter().peekable();
    while let Some(word) = rest.next() {
        let Some(word) = word.as_deref() else { continue };
        if word == "--" {
            break;
        }
        if word == option {
            values.push(rest.peek().and_then(|next| next.as_ref()).cloned());
            continue;
        }
        if let Some(long) = option.strip_prefix("--") {
            let Some(given) = word.strip_prefix("--") else { continue };
            match given.split_once('=') {
                Some((name, value)) if !name.is_empty() && long.starts_with(name) => {
                    values.push(Some(value.to_owned()));
                }
                None if !given.is_empty() && long.starts_with(given) => {
                    values.push(rest.peek().and_then(|next| next.as_ref()).cloned());
                }
                Some(_) | None => {}
            }
        } else if let Some(value) = word.strip_prefix(option).and_then(|rest| rest.strip_prefix('='))
            && option.len() > 2
        {
            values.push(Some(value.to_owned()));
        } else if let Some(letter) = option.strip_prefix('-').filter(|letter| letter.len() == 1)
            && let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.starts_with('-'))
            && let Some((_, value)) = cluster.split_once(letter)
        {
            let next = rest.peek().and_then(|next| next.as_ref()).cloned();
            values.push(if value.is_empty() { next } else { Some(value.to_owned()) });
        }
    }
    values
}
