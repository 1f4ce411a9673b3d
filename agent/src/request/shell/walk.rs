//! Walks a parsed line and notes every simple command in it, with what is known of its words.

use std::collections::HashSet;

use brush_parser::ast::{
    AndOr, AndOrList, Assignment, AssignmentName, AssignmentValue, Command as Node,
    CommandPrefixOrSuffixItem, CompoundCommand, CompoundList, IoRedirect, Pipeline, SeparatorOperator,
    SimpleCommand,
};
use brush_parser::{Parser, ParserOptions, SourceInfo};

use super::bounds::excess;
use super::folder::{self, Folders};
use super::redirect::reach;
use super::run::{self, Invocation, Stdin};
use super::variables::{changes_what_runs, keeps};
use super::word::{Expanded, Variables, arithmetic_is_plain, expand};
use super::{Command, CommandLine};
use crate::request::Effect;
use crate::request::ssh::PathUse;

/// Deepest nesting of lines inside lines: `sh -c "sh -c …"`.
const LINES_DEEP_MAX: usize = 8;

/// Simple commands of one line.
pub(super) const COMMANDS_MAX: usize = 512;

/// Parts of a line that are walked, those of loops each time.
const NODES_MAX: usize = 8 * COMMANDS_MAX;

/// What a walk has found.
pub(super) struct Walk {
    pub(super) commands: Vec<Command>,
    /// Why something was not understood, when something was not.
    pub(super) opaque: Option<&'static str>,
    /// What the commands run under.
    pub(super) through: Vec<String>,
    /// Nothing but one simple command of plain words: no assignment, redirection, substitution or list.
    pub(super) plain: bool,
    /// Something evaluates what a variable holds.
    pub(super) evaluates: bool,
    /// Some literal text would run a command, were it evaluated.
    code: bool,
    /// Where the next command runs.
    pub(super) folders: Folders,
    /// How often a variable was given a value.
    pub(super) changes: usize,
    /// Values of a loop are being followed.
    pub(super) following: bool,
    pub(super) variables: Variables,
    functions: HashSet<String>,
    pub(super) options: ParserOptions,
    depth: usize,
    /// Parts walked so far.
    nodes: usize,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self {
            commands: Vec::new(),
            opaque: None,
            through: Vec::new(),
            plain: true,
            evaluates: false,
            code: false,
            folders: Folders::new(),
            changes: 0,
            following: false,
            variables: Variables::new(),
            functions: HashSet::new(),
            options: ParserOptions::default(),
            depth: 0,
            nodes: 0,
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
        if ["${ ", "${\t", "${\n", "${|"].iter().any(|open| text.contains(open)) {
            return self.doubt("newer shells run a command there");
        }
        let source = SourceInfo::default();
        let parsed = Parser::new(text.as_bytes(), &self.options.clone(), &source).parse_program();
        let Ok(program) = parsed else {
            return self.doubt("it is not understood as a command line");
        };
        self.depth += 1;
        self.plain &= program.complete_commands.len() == 1 && self.depth == 1;
        for list in &program.complete_commands {
            self.list(list, stdin, true);
        }
        self.depth -= 1;
    }

    /// A line of another shell, whose variables are not this one's.
    pub(super) fn nested(&mut self, text: &str, through: &str, stdin: &Stdin) {
        let variables = std::mem::take(&mut self.variables);
        let folders = self.folders.clone();
        self.through.push(through.to_owned());
        self.line(text, stdin);
        self.through.pop();
        self.variables = variables;
        self.folders = folders;
    }

    /// What runs on another host or in a container, whose folders are not this one's.
    pub(super) fn elsewhere(&mut self, inside: impl FnOnce(&mut Self)) {
        let folders = std::mem::replace(&mut self.folders, Folders::new());
        inside(self);
        self.folders = folders;
    }

    /// What runs in a shell of its own: what it assigns and where it goes ends with it.
    pub(super) fn apart(&mut self, inside: impl FnOnce(&mut Self)) {
        let (variables, folders) = (self.variables.clone(), self.folders.clone());
        inside(self);
        self.variables = variables;
        self.folders = folders;
    }

    /// A variable is not known any more.
    pub(super) fn unknown_variable(&mut self, name: &str) {
        self.assign(name.to_owned(), None);
    }

    fn assign(&mut self, name: String, value: Option<String>) {
        self.changes += 1;
        let value = value.filter(|_| keeps(&name));
        self.variables.insert(name, value);
    }

    /// Nothing is known any more of variables and of the folder.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
        self.variables.clear();
        self.folders.forget();
    }

    pub(super) fn list(&mut self, list: &CompoundList, stdin: &Stdin, certain: bool) {
        self.plain &= list.0.len() == 1;
        for item in &list.0 {
            self.plain &= matches!(item.1, SeparatorOperator::Sequence);
            self.and_or(&item.0, stdin, certain);
        }
    }

    fn and_or(&mut self, list: &AndOrList, stdin: &Stdin, certain: bool) {
        let before = self.folders.clone();
        self.pipeline(&list.first, stdin, certain);
        for next in &list.additional {
            self.plain = false;
            match next {
                AndOr::And(pipeline) => self.pipeline(pipeline, stdin, false),
                AndOr::Or(pipeline) => {
                    self.folders.join(&before);
                    self.pipeline(pipeline, stdin, false);
                }
            }
        }
        // Some of it may have failed, `cd` as well.
        self.folders.join(&before);
    }

    fn pipeline(&mut self, pipeline: &Pipeline, stdin: &Stdin, certain: bool) {
        let mut input = stdin.clone();
        let several = pipeline.seq.len() > 1;
        self.plain &= !several && !pipeline.bang && pipeline.timed.is_none();
        let folders = several.then(|| self.folders.clone());
        for node in &pipeline.seq {
            let before = self.commands.len();
            self.node(node, &input, certain && !several);
            // What the next one reads is what this one says, where that is known.
            input = Stdin::of_output(self.commands.get(before..).unwrap_or_default());
        }
        if let Some(folders) = folders {
            // Each ran in a shell of its own, but for the last in some shells.
            self.folders.join(&folders);
        }
    }

    fn node(&mut self, node: &Node, stdin: &Stdin, certain: bool) {
        self.nodes += 1;
        if self.commands.len() >= COMMANDS_MAX || self.nodes > NODES_MAX {
            return self.doubt("it has too many commands to be looked into");
        }
        self.plain &= matches!(node, Node::Simple(_));
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
                const EVALUATING: [&str; 8] = ["-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v", "-R"];
                self.evaluates |= EVALUATING.iter().any(|operator| text.contains(operator));
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
                self.repeated(|walk| walk.list(&clause.body.list, stdin, false));
            }
            CompoundCommand::BraceGroup(group) => self.list(&group.list, stdin, certain),
            CompoundCommand::Subshell(subshell) => {
                self.apart(|walk| walk.list(&subshell.list, stdin, certain));
            }
            CompoundCommand::ForClause(clause) => {
                let words = clause.values.iter().flatten();
                let values: Vec<Option<String>> = words.map(|word| self.expand(&word.value)).collect();
                if let Some(reason) = changes_what_runs(&clause.variable_name, None) {
                    self.doubt(reason);
                }
                self.repeated(|walk| {
                    walk.each_value(&clause.variable_name, &values, &clause.body.list, stdin)
                });
                self.assign(clause.variable_name.clone(), None);
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
                self.repeated(|walk| {
                    walk.list(&clause.0, stdin, false);
                    walk.list(&clause.1.list, stdin, false);
                });
            }
        }
    }

    fn arithmetic(&mut self, expression: &str) {
        self.evaluates = true;
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
        self.evaluates |= expanded.evaluates;
        self.code |= expanded.code;
        self.plain &= expanded.substitutions.is_empty();
        for text in &expanded.substitutions {
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
        let mut unknown_words = false;
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            let before = argv.len();
            self.item(item, &mut argv, &mut redirects, None);
            let unknown = argv.get(before).is_some_and(Option::is_none);
            unknown_words |= unknown && !matches!(item, CommandPrefixOrSuffixItem::AssignmentWord(_, _));
        }
        let (paths, input) = self.redirects(redirects.iter());
        self.plain &= assignments.is_empty() && redirects.is_empty();
        if argv.is_empty() {
            for (name, value) in assignments {
                if let Some(reason) = changes_what_runs(&name, value.as_deref()) {
                    self.doubt(reason);
                }
                let known = if certain { value } else { None };
                self.assign(name, known);
            }
            if !paths.is_empty() {
                let begun = self.commands.len();
                self.note("redirection", Effect::Read, None, &[]);
                self.redirected(begun, paths);
            }
            return;
        }
        // What `read` splits at changes nothing else.
        let reads = matches!(argv.first(), Some(Some(program)) if program == "read");
        let changing = assignments.iter().filter(|(name, _)| !(reads && name == "IFS"));
        let changed =
            changing.into_iter().find_map(|(name, value)| changes_what_runs(name, value.as_deref()));
        for (name, _) in assignments {
            // Before some builtins of some shells it stays.
            self.assign(name, None);
        }
        let begun = self.commands.len();
        let stdin = input.unwrap_or_else(|| stdin.clone());
        run::run(self, Invocation { argv, stdin, only_values: !unknown_words });
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
                    let (name, value) = self.assignment(assignment);
                    if let Some(reason) = changes_what_runs(&name, value.as_deref()) {
                        self.doubt(reason);
                    }
                    self.assign(name, None);
                    argv.push(expand(&word.value, &self.variables, &self.options).text);
                }
            },
            CommandPrefixOrSuffixItem::ProcessSubstitution(kind, subshell) => {
                self.process_substitution(kind, &subshell.list);
                argv.push(None);
            }
        }
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
                for (index, word) in items {
                    if let Some(index) = index {
                        self.arithmetic(&index.value);
                        drop(self.expand(&index.value));
                    }
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

    /// The last command touches these files.
    pub(super) fn touches(&mut self, paths: Vec<PathUse>) {
        let paths = folder::placed(&self.folders, paths);
        if let Some(command) = self.commands.last_mut() {
            command.paths = paths;
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
            requests: Vec::new(),
            through: self.through.clone(),
        });
    }

    /// The whole, once all is walked.
    pub(super) fn finish(mut self) -> CommandLine {
        if self.code && self.evaluates {
            self.doubt("a text of it may be evaluated");
        }
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
