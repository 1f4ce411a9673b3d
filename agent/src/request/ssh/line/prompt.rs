//! The shell's prompt: what the first one looked like, and what else looks like it.

/// Longest prompt that is taken for one, in characters.
const PROMPT_CHARS_MAX: usize = 200;

/// What prompts of shells end in, before a blank or none.
const ENDS: [char; 5] = ['$', '#', '%', '>', '❯'];

/// What a prompt looks like. The working folder in it changes; nothing else may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    before: String,
    /// There is a working folder between the two.
    folder: bool,
    after: String,
    /// The shell marks that it reads a line (`CSI ? 2004 h`).
    bracketed: bool,
}

impl Prompt {
    /// What stands before the cursor when a shell has just started; `None` when it looks like no prompt.
    pub(super) fn learn(text: &str, bracketed: bool) -> Option<Self> {
        let end = text.trim_end_matches(' ');
        if !end.ends_with(ENDS) || text.chars().count() > PROMPT_CHARS_MAX {
            return None;
        }
        let whole = || Self { before: text.to_owned(), folder: false, after: String::new(), bracketed };
        let Some(start) = end.find(['~', '/']) else { return Some(whole()) };
        let (before, rest) = text.split_at_checked(start)?;
        let length = rest.find([' ', ']', ')', '$', '#', '%', '>', '❯']).unwrap_or(rest.len());
        let (_, after) = rest.split_at_checked(length)?;
        Some(Self { before: before.to_owned(), folder: true, after: after.to_owned(), bracketed })
    }

    /// Whether this is the same prompt, in whatever folder.
    pub(super) fn matches(&self, text: &str, bracketed: bool) -> bool {
        let middle = text.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after));
        let folder = middle.is_some_and(|middle| {
            // No folder stands after another prompt on the same line.
            if self.folder { !middle.is_empty() && !middle.contains(&*self.after) } else { middle.is_empty() }
        });
        folder && bracketed == self.bracketed && text.chars().count() <= PROMPT_CHARS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::Prompt;

    #[test]
    fn a_prompt_is_known_again_in_another_folder() {
        for (first, same, other) in [
            ("root@web:~# ", "root@web:/srv/my app# ", "user@web:~$ "),
            ("[root@web ~]# ", "[root@web app]# ", "[root@db ~]# "),
            ("~/src > ", "/tmp > ", "> "),
            ("$ ", "$ ", "# "),
            ("bash-5.2# ", "bash-5.2# ", ">>> "),
            ("root@web:~# ", "root@web:/# ", "root@web:~# cat# "),
        ] {
            let prompt = Prompt::learn(first, true).unwrap();
            assert!(prompt.matches(first, true) && prompt.matches(same, true), "{first}");
            assert!(!prompt.matches(other, true) && !prompt.matches("", true), "{first}");
            assert!(!prompt.matches(same, false), "readline does not read");
            assert!(!prompt.matches(&format!("{first}ls"), true), "{first}");
        }
        for no in ["", "Password: ", "login as: ", "Last login: Mon", "Continue? [y/N] "] {
            assert_eq!(Prompt::learn(no, false), None, "{no}");
        }
    }
}
