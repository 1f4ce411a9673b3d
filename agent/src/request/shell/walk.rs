//! Walks a parsed line and notes every simple command in it, with what is known of its words.

use std::collections::HashSet;

use brush_parser::ast::{
    AndOrList, Assignment, AssignmentName, AssignmentValue, Command as Node, CommandPrefixOrSuffixItem,
    CompoundCommand, CompoundList, IoFileRedirectKind, IoFileRedirectTarget, IoRedirect, Pipeline,
    ProcessSubstitutionKind, SimpleCommand, Word,
};
use brush_parser::{Parser, ParserOptions, SourceInfo};

use super::bounds::excess;
use super::run::{self, Invocation, Stdin};
use super::word::{Expanded, Variables, expand, expand_heredoc};
use super::{Command, CommandLine};
use crate::request::Effect;
use crate::request::ssh::paths::sensitive;
use crate::request::ssh::{Access, PathUse};

/// Deepest nesting of lines inside lines: `sh -c "sh -c …"`.
const LINES_DEEP_MAX: usize = 8;

/// Simple commands of one line.
pub(super) const COMMANDS_MAX: usize = 512;

/// Files that swallow what is written to them.
const SINKS: [&str; 4] = ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"];

/// What a walk has found.
pub(super) struct Walk {
    pub(super) commands: Vec<Command>,
    /// Why something was not understood, when something was not.
    pub(super) opaque: Option<&'static str>,
    /// What the commands run under.
    pub(super) through: Vec<String>,
    variables: Variables,
    functions: HashSet<String>,
    options: ParserOptions,
    depth: usize,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self {
            commands: Vec::new(),
            opaque: None,
            through: Vec::new(),
            variables: Variables::new(),
            functions: HashSet::new(),
            options: ParserOptions::default(),
            depth: 0,
        }
    }

    /// Something cannot be understood; the first reason counts.
    pub(super) fn doubt(&mut self, reason: &'static str) {
        self.opaque.get_or_insert(reason);
    }

    /// Looks into a line, also one inside another.
    pub(super) fn line(&mut self, text: &str, stdin: &Stdin) {
        if let Some(reason) = excess(text) {
            return self.doubt(reason);
        }
        if self.depth >= LINES_DEEP_MAX || self.commands.len() >= COMMANDS_MAX {
            return self.doubt("it nests too deeply to be looked into");
        }
        let source = SourceInfo::default();
        let parsed = Parser::new(text.as_bytes(), &self.options.clone(), &source).parse_program();
        let Ok(program) = parsed else {
            return self.doubt("it is not understood as a command line");
        };
        self.depth += 1;
        for list in &program.complete_commands {
            self.list(list, stdin, true);
        }
        self.depth -= 1;
    }

    /// A line of another shell, whose variables are not this one's.
    pub(super) fn nested(&mut self, text: &str, through: &str, stdin: &Stdin) {
        let variables = std::mem::take(&mut self.variables);
        self.through.push(through.to_owned());
        self.line(text, stdin);
        self.through.pop();
        self.variables = variables;
    }

    fn list(&mut self, list: &CompoundList, stdin: &Stdin, certain: bool) {
        for item in &list.0 {
            self.and_or(&item.0, stdin, certain);
        }
    }

    fn and_or(&mut self, list: &AndOrList, stdin: &Stdin, certain: bool) {
        self.pipeline(&list.first, stdin, certain);
        for next in &list.additional {
            let (brush_parser::ast::AndOr::And(pipeline) | brush_parser::ast::AndOr::Or(pipeline)) = next;
            self.pipeline(pipeline, stdin, false);
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, stdin: &Stdin, certain: bool) {
        let mut input = stdin.clone();
        let several = pipeline.seq.len() > 1;
        for node in &pipeline.seq {
            let before = self.commands.len();
            self.node(node, &input, certain && !several);
            // What the next one reads is what this one says, where that is known.
            input = Stdin::of_output(self.commands.get(before..).unwrap_or_default());
        }
    }

    fn node(&mut self, node: &Node, stdin: &Stdin, certain: bool) {
        if self.commands.len() >= COMMANDS_MAX {
            return self.doubt("it has too many commands to be looked into");
        }
        match node {
            Node::Simple(simple) => self.simple(simple, stdin, certain),
            Node::Compound(compound, redirects) => {
                let (paths, input) = self.redirects(redirects.iter().flat_map(|list| &list.0));
                let begun = self.commands.len();
                self.compound(compound, input.as_ref().unwrap_or(stdin), certain);
                self.redirected(begun, paths);
            }
            Node::Function(function) => {
                self.functions.insert(function.fname.value.clone());
                let body = &function.body;
                let (paths, input) = self.redirects(body.1.iter().flat_map(|list| &list.0));
                let begun = self.commands.len();
                self.compound(&body.0, input.as_ref().unwrap_or(stdin), false);
                let itself = Some(function.fname.value.as_str());
                if self.commands.iter().skip(begun).any(|command| command.program.as_deref() == itself) {
                    self.doubt("a function of it calls itself");
                }
                self.redirected(begun, paths);
            }
            Node::ExtendedTest(_) => {
                // `[[ … ]]` runs nothing but the substitutions in its words, which are not taken apart here.
                let text = format!("{node}");
                if text.contains("$(") || text.contains('`') {
                    self.doubt("a test runs a command");
                }
            }
        }
    }

    fn compound(&mut self, compound: &CompoundCommand, stdin: &Stdin, certain: bool) {
        match compound {
            CompoundCommand::Arithmetic(arithmetic) => self.arithmetic(&arithmetic.expr.value),
            CompoundCommand::ArithmeticForClause(clause) => {
                for part in [&clause.initializer, &clause.condition, &clause.updater].into_iter().flatten() {
                    self.arithmetic(&part.value);
                }
                self.list(&clause.body.list, stdin, false);
            }
            CompoundCommand::BraceGroup(group) => self.list(&group.list, stdin, certain),
            CompoundCommand::Subshell(subshell) => {
                let variables = self.variables.clone();
                self.list(&subshell.list, stdin, certain);
                self.variables = variables;
            }
            CompoundCommand::ForClause(clause) => {
                self.variables.insert(clause.variable_name.clone(), None);
                for word in clause.values.iter().flatten() {
                    let expanded = self.expand(&word.value);
                    drop(expanded);
                }
                self.list(&clause.body.list, stdin, false);
            }
            CompoundCommand::CaseClause(clause) => {
                drop(self.expand(&clause.value.value));
                for case in &clause.cases {
                    for pattern in &case.patterns {
                        drop(self.expand(&pattern.value));
                    }
                    if let Some(list) = &case.cmd {
                        self.list(list, stdin, false);
                    }
                }
            }
            CompoundCommand::IfClause(clause) => {
                self.list(&clause.condition, stdin, false);
                self.list(&clause.then, stdin, false);
                for alternative in clause.elses.iter().flatten() {
                    if let Some(condition) = &alternative.condition {
                        self.list(condition, stdin, false);
                    }
                    self.list(&alternative.body, stdin, false);
                }
            }
            CompoundCommand::WhileClause(clause) | CompoundCommand::UntilClause(clause) => {
                self.list(&clause.0, stdin, false);
                self.list(&clause.1.list, stdin, false);
            }
        }
    }

    fn arithmetic(&mut self, expression: &str) {
        if expression.contains("$(") || expression.contains('`') || expression.contains('[') {
            self.doubt("an arithmetic expression may run a command");
        }
    }

    /// Expands a word, and looks into the substitutions it has.
    fn expand(&mut self, written: &str) -> Option<String> {
        let expanded = expand(written, &self.variables, &self.options);
        self.substituted(expanded)
    }

    fn substituted(&mut self, expanded: Expanded) -> Option<String> {
        if expanded.opaque {
            self.doubt("a word of it is not understood");
        }
        for text in &expanded.substitutions {
            let variables = self.variables.clone();
            self.line(text, &Stdin::Inherited);
            self.variables = variables;
        }
        expanded.text
    }

    fn simple(&mut self, simple: &SimpleCommand, stdin: &Stdin, certain: bool) {
        let mut argv = Vec::new();
        let mut redirects = Vec::new();
        let mut assignments = Vec::new();
        let prefix = simple.prefix.iter().flat_map(|prefix| &prefix.0);
        for item in prefix {
            self.item(item, &mut argv, &mut redirects, Some(&mut assignments));
        }
        if let Some(word) = &simple.word_or_name {
            argv.push(self.expand(&word.value));
        }
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            self.item(item, &mut argv, &mut redirects, None);
        }
        let (paths, input) = self.redirects(redirects.iter());
        if argv.is_empty() {
            for (name, value) in assignments {
                let known = if certain { value } else { None };
                self.variables.insert(name, known);
            }
            if !paths.is_empty() {
                let begun = self.commands.len();
                self.note("redirection", Effect::Read, None, &[]);
                self.redirected(begun, paths);
            }
            return;
        }
        let changed =
            assignments.iter().find_map(|(name, value)| run::changes_what_runs(name, value.as_deref()));
        let begun = self.commands.len();
        let invocation = Invocation { argv, stdin: input.unwrap_or_else(|| stdin.clone()) };
        run::run(self, invocation);
        if let Some(reason) = changed {
            self.raise(begun, Effect::Unknown, reason);
        }
        self.redirected(begun, paths);
    }

    fn item(
        &mut self,
        item: &CommandPrefixOrSuffixItem,
        argv: &mut Vec<Option<String>>,
        redirects: &mut Vec<IoRedirect>,
        assignments: Option<&mut Vec<(String, Option<String>)>>,
    ) {
        match item {
            CommandPrefixOrSuffixItem::IoRedirect(redirect) => redirects.push(redirect.clone()),
            CommandPrefixOrSuffixItem::Word(word) => argv.push(self.expand(&word.value)),
            CommandPrefixOrSuffixItem::AssignmentWord(assignment, word) => match assignments {
                Some(assignments) => {
                    let (name, value) = self.assignment(assignment);
                    assignments.push((name, value));
                }
                // `export X=rm`, or an argument that looks like it: a variable all the same is not known any more.
                None => {
                    let (name, _) = self.assignment(assignment);
                    if let Some(reason) = run::changes_what_runs(&name, None) {
                        self.doubt(reason);
                    }
                    self.variables.insert(name, None);
                    argv.push(expand(&word.value, &self.variables, &self.options).text);
                }
            },
            CommandPrefixOrSuffixItem::ProcessSubstitution(kind, subshell) => {
                self.process_substitution(kind, &subshell.list);
                argv.push(None);
            }
        }
    }

    fn process_substitution(&mut self, _kind: &ProcessSubstitutionKind, list: &CompoundList) {
        let variables = self.variables.clone();
        self.list(list, &Stdin::Unknown, false);
        self.variables = variables;
    }

    fn assignment(&mut self, assignment: &Assignment) -> (String, Option<String>) {
        let name = match &assignment.name {
            AssignmentName::VariableName(name) => name.clone(),
            AssignmentName::ArrayElementName(name, index) => {
                self.arithmetic(index);
                name.clone()
            }
        };
        let value = match &assignment.value {
            AssignmentValue::Scalar(word) => self.expand(&word.value),
            AssignmentValue::Array(items) => {
                for (_, word) in items {
                    drop(self.expand(&word.value));
                }
                None
            }
        };
        let plain = matches!(assignment.name, AssignmentName::VariableName(_)) && !assignment.append;
        (name, value.filter(|_| plain))
    }

    /// What redirections read and write, and what stands on the input if one of them says.
    fn redirects<'r>(
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
        (paths, input)
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
    fn redirected(&mut self, begun: usize, paths: Vec<PathUse>) {
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

    /// The commands since `begun` reach at least this far.
    pub(super) fn raise(&mut self, begun: usize, effect: Effect, reason: &str) {
        for command in self.commands.iter_mut().skip(begun).filter(|command| command.effect < effect) {
            command.effect = effect;
            command.reason = Some(reason.to_owned());
        }
    }

    /// Whether the line itself says what a name does.
    pub(super) fn is_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    /// Notes a command.
    pub(super) fn note(&mut self, kind: &str, effect: Effect, reason: Option<&str>, argv: &[Option<String>]) {
        let (program, arguments) = match argv.split_first() {
            Some((program, arguments)) => (program.clone(), arguments.to_vec()),
            None => (None, Vec::new()),
        };
        self.commands.push(Command {
            kind: kind.to_owned(),
            program: program.map(|program| run::name_of(&program).to_owned()),
            arguments,
            effect,
            reason: reason.map(str::to_owned),
            paths: Vec::new(),
            statements: Vec::new(),
            through: self.through.clone(),
        });
    }

    /// The whole, once all is walked.
    pub(super) fn finish(mut self) -> CommandLine {
        for command in &mut self.commands {
            let paths = command.paths.clone();
            reach(command, &paths);
        }
        let highest = self.commands.iter().max_by_key(|command| command.effect);
        let (effect, reason) = match (self.opaque, highest) {
            (Some(reason), _) => (Effect::Unknown, Some(reason.to_owned())),
            (None, Some(highest)) => (highest.effect, highest.reason.clone()),
            (None, None) => (Effect::Read, None),
        };
        CommandLine { commands: self.commands, effect, reason, transfer: None }
    }
}

/// Writing a file is a write, and some files rule the host.
fn reach(command: &mut Command, paths: &[PathUse]) {
    for path in paths.iter().filter(|path| path.access != Access::Read) {
        let (effect, reason) = match sensitive(&path.path) {
            Some(reason) => (Effect::Admin, Some(reason)),
            None => (Effect::Write, None),
        };
        if command.effect < effect {
            command.effect = effect;
            command.reason = reason.map(str::to_owned).or_else(|| Some("writes a file".to_owned()));
        }
    }
}
