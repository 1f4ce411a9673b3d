//! Redirections: what a command reads from and writes to beside its arguments.

use brush_parser::ast::{
    CompoundList, IoFileRedirectKind, IoFileRedirectTarget, IoRedirect, ProcessSubstitutionKind, Word,
};

use super::Command;
use super::folder;
use super::run::Stdin;
use super::walk::Walk;
use super::word::expand_heredoc;
use crate::request::Effect;
use crate::request::ssh::paths::sensitive;
use crate::request::ssh::{Access, PathUse};

/// Files that swallow what is written to them.
const SINKS: [&str; 4] = ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"];

impl Walk {
    pub(super) fn process_substitution(&mut self, _kind: &ProcessSubstitutionKind, list: &CompoundList) {
        self.plain = false;
        self.apart(|walk| walk.list(list, &Stdin::Unknown, false));
    }

    /// What redirections read and write, and what stands on the input if one of them says.
    pub(super) fn redirects<'r>(
        &mut self,
        redirects: impl Iterator<Item = &'r IoRedirect>,
    ) -> (Vec<PathUse>, Option<Stdin>) {
        let mut paths = Vec::new();
        let mut input = None;
        for redirect in redirects {
            match redirect {
                IoRedirect::File(_, kind, target) => self.file(kind, target, &mut paths, &mut input),
                IoRedirect::OutputAndError(word, _) => self.writes(word, &mut paths),
                IoRedirect::HereDocument(_, document) => {
                    let text = &document.doc.value;
                    let text = if document.requires_expansion {
                        let expanded = expand_heredoc(text, &self.variables, &self.options);
                        self.substituted(expanded)
                    } else {
                        Some(text.clone())
                    };
                    input = Some(text.map_or(Stdin::Unknown, Stdin::Text));
                }
                IoRedirect::HereString(_, word) => {
                    input = Some(self.expand(&word.value).map_or(Stdin::Unknown, Stdin::Text));
                }
            }
        }
        (folder::placed(&self.folders, paths), input)
    }

    fn file(
        &mut self,
        kind: &IoFileRedirectKind,
        target: &IoFileRedirectTarget,
        paths: &mut Vec<PathUse>,
        input: &mut Option<Stdin>,
    ) {
        match (target, kind) {
            (IoFileRedirectTarget::Filename(word), IoFileRedirectKind::Read) => {
                let path = self.expand(&word.value);
                *input = Some(Stdin::Unknown);
                paths.extend(path.map(|path| PathUse { path, access: Access::Read }));
            }
            (IoFileRedirectTarget::Filename(word), _) => self.writes(word, paths),
            (IoFileRedirectTarget::ProcessSubstitution(kind, subshell), _) => {
                self.process_substitution(kind, &subshell.list);
                *input = Some(Stdin::Unknown);
            }
            (IoFileRedirectTarget::Fd(_), _) => {}
            // `>&word`: a number or a minus is a descriptor, anything else a file.
            (IoFileRedirectTarget::Duplicate(word), _) => {
                let text = self.expand(&word.value);
                let descriptor = text
                    .as_deref()
                    .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'));
                if !descriptor {
                    paths.push(PathUse { path: text.unwrap_or_default(), access: Access::Write });
                }
            }
        }
    }

    fn writes(&mut self, word: &Word, paths: &mut Vec<PathUse>) {
        // Where only the running shell knows the file, it is written all the same.
        let path = self.expand(&word.value).unwrap_or_default();
        if !SINKS.contains(&path.as_str()) {
            paths.push(PathUse { path, access: Access::Write });
        }
    }

    /// The commands since `begun` have these redirections around them.
    pub(super) fn redirected(&mut self, begun: usize, paths: Vec<PathUse>) {
        if paths.is_empty() {
            return;
        }
        if begun >= self.commands.len() {
            self.note("redirection", Effect::Read, None, &[]);
        }
        for command in self.commands.iter_mut().skip(begun) {
            reach(command, &paths);
            command.paths.extend(paths.iter().cloned());
        }
    }
}

/// Writing a file is a write, and some files rule the host.
pub(super) fn reach(command: &mut Command, paths: &[PathUse]) {
    for path in paths.iter().filter(|path| path.access != Access::Read) {
        let (effect, reason) = match sensitive(&path.path) {
            // Only the running shell knows which.
            _ if path.path.is_empty() => (Effect::Admin, Some("which file it writes is not known")),
            Some(reason) => (Effect::Admin, Some(reason)),
            None => (Effect::Write, None),
        };
        if command.effect < effect {
            command.effect = effect;
            command.reason = reason.map(str::to_owned).or_else(|| Some("writes a file".to_owned()));
        }
    }
}
