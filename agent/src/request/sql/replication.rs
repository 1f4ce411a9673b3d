//! Commands of replication connections, told by their first word as the server does. What has none of these words is SQL
//! there, too (<https://www.postgresql.org/docs/current/protocol-replication.html>).

use super::{Analysis, unknown};
use crate::request::Effect;

/// First words and the kinds they are (`src/backend/replication/repl_scanner.l` of PostgreSQL 18). SHOW is what it is in SQL.
const COMMANDS: [(&str, &str); 9] = [
    ("ALTER_REPLICATION_SLOT", "alter replication slot"),
    ("BASE_BACKUP", "base backup"),
    ("CREATE_REPLICATION_SLOT", "create replication slot"),
    ("DROP_REPLICATION_SLOT", "drop replication slot"),
    ("IDENTIFY_SYSTEM", "identify system"),
    ("READ_REPLICATION_SLOT", "read replication slot"),
    ("START_REPLICATION", "start replication"),
    ("TIMELINE_HISTORY", "timeline history"),
    ("UPLOAD_MANIFEST", "upload manifest"),
];

/// What a text is on a replication connection, if it is not SQL. All of it is one command: the server refuses what follows.
#[must_use]
pub fn replication_command(text: &str) -> Option<Analysis> {
    let text_from = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let end = text_from.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text_from.len());
    let word = text_from.get(..end)?;
    let (_, kind) = COMMANDS.iter().find(|(command, _)| command.eq_ignore_ascii_case(word))?;
    // Nothing of its inside is known but what it is.
    let mut analysis = unknown(text, "is about all that the server holds".to_owned());
    analysis.effect = Effect::Admin;
    for statement in &mut analysis.statements {
        (*kind).clone_into(&mut statement.kind);
        statement.effect = Effect::Admin;
    }
    Some(analysis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_by_their_first_word_alone() {
        let kind = |text| replication_command(text).map(|analysis| analysis.statements[0].kind.clone());
        for (text, expected) in [
            ("IDENTIFY_SYSTEM", "identify system"),
            (" \t\n\r\u{b}\u{c}start_replication SLOT s LOGICAL 0/0", "start replication"),
            ("START_REPLICATION;", "start replication"),
            ("Base_Backup (LABEL 'x'); DROP TABLE t", "base backup"),
            ("CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL test_decoding", "create replication slot"),
        ] {
            assert_eq!(kind(text).as_deref(), Some(expected), "{text:?}");
            assert_eq!(replication_command(text).unwrap().effect, Effect::Admin);
        }
        for text in [
            "",
            "SELECT 1",
            "SHOW x",
            "/* */ IDENTIFY_SYSTEM",
            "IDENTIFY_SYSTEMS",
            "\u{a0}BASE_BACKUP",
            "IDENTIFY_SYST\u{c9}M",
        ] {
            assert_eq!(kind(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_command_is_sql() {
        for (command, _) in COMMANDS {
            let analysis = super::super::analyze(command);
            assert_eq!(analysis.effect, Effect::Unknown, "{command}");
        }
    }
}
