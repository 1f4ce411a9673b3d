//! Walks a parsed line and notes every simple command in it, with what is known of its words.

use std::collections::HashSet;

use brush_parser::ast::{
    AndOr, AndOrList, Assignment, AssignmentName, AssignmentValue, Command as Node,
    CommandPrefixOrSuffixItem, CompoundCommand, CompoundList, IoRedirect, Pipeline, ProcessSubstitutionKind,
    SeparatorOperator, SimpleCommand,
};
use brush_parser::{Parser, ParserOptions, SourceInfo};

use super::bounds::excess;
use super::folder::Folders;
use super::redirect::reach;
use super::run::{self, Invocation, Stdin};
use super::variables::{self, changes_what_runs};
use super::word::{Expanded, Variables, arithmetic_is_plain, expand};
use super::{Command, CommandLine};
use crate::request::Effect;

/// Deepest nesting of lines inside lines: `sh -c "sh -c …"`.
const LINES_DEEP_MAX: usize = 8;

/// Simple commands of one line.
pub(super) const COMMANDS_MAX: usize = 512;

/// What a walk has found.
pub(super) struct Walk {
    pub(super) commands: Vec<Command>,
    /// Why something was not understood, when something was not.
    pub(super) opaque: Option<&'static str>,
    /// What the commands run under.
    pub(super) through: Vec<String>,
    /// Nothing but plain commands so far: no assignments, redirections, substitutions, compound commands.
    pub(super) plain: bool,
    pub(super) variables: Variables,
    pub(super) options: ParserOptions,
    /// Where relative paths begin.
    pub(super) folders: Folders,
    functions: HashSet<String>,
    depth: usize,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self {
            commands: Vec::new(),
            opaque: None,
            through: Vec::new(),
            plain: true,
            variables: Variables::new(),
            options: ParserOptions::default(),
            folders: Folders::default(),
            functions: HashSet::new(),
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
        let (variables, folders) = (std::mem::take(&mut self.variables), self.folders.clone());
        if through.starts_with("ssh ") {
            self.folders = Folders::default();
        }
        self.through.push(through.to_owned());
        self.line(text, stdin);
        self.through.pop();
        (self.variables, self.folders) = (variables, folders);
    }

    /// Runs something in a shell of its own, whose variables and folder end with it.
    fn apart(&mut self, what: impl FnOnce(&mut Self)) {
        let before = (self.variables.clone(), self.folders.clone());
        what(self);
        (self.variables, self.folders) = before;
    }

    fn list(&mut self, list: &CompoundList, stdin: &Stdin, certain: bool) {
        for item in &list.0 {
            if matches!(item.1, SeparatorOperator::Async) {
                self.plain = false;
                self.apart(|walk| walk.and_or(&item.0, stdin, certain));
            } else {
                self.and_or(&item.0, stdin, certain);
            }
        }
    }

    fn and_or(&mut self, list: &AndOrList, stdin: &Stdin, certain: bool) {
        let begun = self.folders.clone();
        self.pipeline(&list.first, stdin, certain);
        for next in &list.additional {
            match next {
                // It runs where what came before has led.
                AndOr::And(pipeline) => self.pipeline(pipeline, stdin, false),
                AndOr::Or(pipeline) => {
                    self.folders.or(&begun);
                    self.pipeline(pipeline, stdin, false);
                }
            }
        }
        // Any of it may have failed.
        self.folders.or(&begun);
    }

    fn pipeline(&mut self, pipeline: &Pipeline, stdin: &Stdin, certain: bool) {
        let mut input = stdin.clone();
        let several = pipeline.seq.len() > 1;
        for node in &pipeline.seq {
            let before = self.commands.len();
            if several {
                self.plain = false;
                self.apart(|walk| walk.node(node, &input, certain));
                // The last one may run in the shell itself (lastpipe); what it sets is not known.
                self.forget(node);
            } else {
                self.node(node, &input, certain);
            }
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
                self.plain = false;
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
                // `[[ … ]]` runs nothing but the substitutions in its words, which are not taken apart here, and what a
                // number that it compares evaluates to.
                let text = format!("{node}");
                let compares = ["-eq", "-ne", "-lt", "-le", "-gt", "-ge"];
                let numbers = text.split_whitespace().any(|word| compares.contains(&word));
                let subscript = text.contains("-v ") && text.replace("[[", "").contains('[');
                if text.contains("$(") || text.contains('`') || subscript || (numbers && text.contains('$')) {
                    self.doubt("a test may run a command");
                }
                self.plain = false;
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
                self.apart(|walk| walk.list(&subshell.list, stdin, certain));
            }
            CompoundCommand::ForClause(clause) => {
                if let Some(reason) = changes_what_runs(&clause.variable_name, None) {
                    self.doubt(reason);
                }
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
        if !arithmetic_is_plain(expression, &self.variables) {
            self.doubt("an arithmetic expression may run a command");
        }
    }

    /// Expands a word, and looks into the substitutions it has.
    pub(super) fn expand(&mut self, written: &str) -> Option<String> {
        let expanded = expand(written, &self.variables, &self.options);
        self.substituted(expanded)
    }

    pub(super) fn substituted(&mut self, expanded: Expanded) -> Option<String> {
        if expanded.opaque {
            self.doubt("a word of it is not understood");
        }
        for text in &expanded.substitutions {
            self.plain = false;
            self.apart(|walk| walk.line(text, &Stdin::Inherited));
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
        self.plain &= redirects.is_empty() && assignments.is_empty();
        let (paths, input) = self.redirects(redirects.iter());
        let begun = self.commands.len();
        if argv.is_empty() {
            for (name, value) in assignments {
                if let Some(reason) = changes_what_runs(&name, value.as_deref()) {
                    self.doubt(reason);
                }
                let known = if certain { value } else { None };
                self.variables.insert(name, known);
            }
            if !paths.is_empty() {
                self.note("redirection", Effect::Read, None, &[]);
                self.redirected(begun, paths);
                self.locate(begun);
            }
            return;
        }
        let changed = assignments.iter().find_map(|(name, value)| changes_what_runs(name, value.as_deref()));
        variables::declared(self, &argv);
        let moved = Folders::moved(&argv);
        let invocation = Invocation { argv, stdin: input.unwrap_or_else(|| stdin.clone()) };
        run::run(self, invocation);
        if let Some(reason) = changed {
            self.raise(begun, Effect::Unknown, reason);
        }
        self.redirected(begun, paths);
        self.locate(begun);
        if let Some(to) = moved {
            self.folders.go(to);
        }
    }

    /// The paths of the commands since `begun` from where they begin.
    fn locate(&mut self, begun: usize) {
        for command in self.commands.iter_mut().skip(begun) {
            self.folders.locate(&mut command.paths);
        }
    }

    /// What a part of a pipeline may have set is not known any more.
    fn forget(&mut self, node: &Node) {
        if let Node::Simple(simple) = node
            && simple.word_or_name.as_ref().is_some_and(|word| variables::declares(&word.value))
        {
            self.variables.clear();
        }
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
                    let (name, value) = self.assignment(assignment);
                    if let Some(reason) = changes_what_runs(&name, value.as_deref()) {
                        self.doubt(reason);
                    }
                    let program = argv.first().and_then(Option::as_deref);
                    if program.is_some_and(variables::declares) {
                        // Such a word is not split, whatever its value is.
                        argv.push(Some(format!("{name}={}", value.unwrap_or_default())));
                    } else {
                        argv.push(expand(&word.value, &self.variables, &self.options).text);
                    }
                    self.variables.insert(name, None);
                }
            },
            CommandPrefixOrSuffixItem::ProcessSubstitution(kind, subshell) => {
                self.process_substitution(kind, &subshell.list);
                argv.push(None);
            }
        }
    }

    pub(super) fn process_substitution(&mut self, _kind: &ProcessSubstitutionKind, list: &CompoundList) {
        self.plain = false;
        self.apart(|walk| walk.list(list, &Stdin::Unknown, false));
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
            AssignmentValue::Scalar(word) if name == "PATH" => self.expand(&variables::path(&word.value)),
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
        CommandLine { commands: self.commands, effect, reason, opaque: self.opaque, transfer: None }
    }
}
