//! Bodies that run several times, and the values that a `for` gives to its variable.

use brush_parser::ast::CompoundList;

use super::Command;
use super::run::Stdin;
use super::variables::keeps;
use super::walk::Walk;

/// Values of a `for` that are followed one by one; where there are more, its variable is not known.
const VALUES_MAX: usize = 8;

impl Walk {
    /// A body that may run several times: what it assigns and where it goes holds for its beginning as well.
    pub(super) fn repeated(&mut self, mut body: impl FnMut(&mut Self)) {
        let (begun, changes, folders) = (self.commands.len(), self.changes, self.folders.clone());
        body(self);
        let moved = self.folders != folders;
        if moved || self.changes != changes {
            self.commands.truncate(begun);
            self.variables.clear();
            self.folders.join(&folders);
            if moved {
                self.folders.forget();
            }
            body(self);
            self.folders.join(&folders);
        }
    }

    /// The body of a `for`, with each of its values where they are known and few.
    pub(super) fn each_value(
        &mut self,
        name: &str,
        values: &[Option<String>],
        body: &CompoundList,
        stdin: &Stdin,
    ) {
        let followed = !self.following
            && !values.is_empty()
            && values.len() <= VALUES_MAX
            && values.iter().flatten().filter(|value| !value.starts_with(['*', '?', '['])).count()
                == values.len();
        if !followed {
            self.variables.insert(name.to_owned(), None);
            return self.list(body, stdin, false);
        }
        self.following = true;
        let begun = self.commands.len();
        for value in values {
            self.variables.insert(name.to_owned(), value.clone().filter(|_| keeps(name)));
            let last = self.commands.len();
            self.list(body, stdin, false);
            // What is the same for each value is said once.
            let (known, new) = self.commands.split_at(last);
            let known = known.get(begun..).unwrap_or_default();
            let new: Vec<Command> = new.iter().filter(|command| !known.contains(command)).cloned().collect();
            self.commands.truncate(last);
            self.commands.extend(new);
        }
        self.following = false;
    }
}
