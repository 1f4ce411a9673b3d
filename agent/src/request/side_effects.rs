//! What a statement that writes sets off besides, as far as a catalogue tells: for whoever decides about it. Pure.

use serde::{Deserialize, Serialize};

use super::ObjectName;

/// Relations told of: those written, and those that the write reaches.
pub const RELATIONS_MAX: usize = 32;
/// Triggers told of, of all relations together; as many rules, and as many foreign keys.
pub const PARTS_MAX: usize = 128;

/// What one statement or text sets off. Names are as the server has them: whoever prints them escapes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideEffects {
    /// The relations written first, then those reached through views, rules and foreign keys.
    pub relations: Vec<Reached>,
    /// There is more than is told.
    #[serde(default)]
    pub cut: bool,
    /// The server could not be asked: nothing is known.
    #[serde(default)]
    pub not_asked: bool,
}

/// One relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Its name, with its schema.
    pub name: ObjectName,
    /// What it is: `table`, `view` and so on.
    pub kind: String,
    /// The relation whose definition or key leads here; `None` for those that the statement names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<ObjectName>,
    /// Rows at the last VACUUM or ANALYZE, of partitions and children as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Size on disk with indexes, of partitions and children as well, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Partitions and children.
    #[serde(default)]
    pub partitions: u64,
    /// Its triggers, by name; those that the server has for itself are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// Its rules, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Foreign keys of other tables that change their rows when its rows go or change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cascades: Vec<Cascade>,
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it fires: `after insert or update for each row`.
    pub timing: String,
    /// The function that it runs.
    pub function: ObjectName,
    /// When that is: `enabled`, `disabled`, `replica` or `always` (`pg_trigger.tgenabled`).
    pub enabled: String,
}

/// A rewrite rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The command it is for.
    pub event: String,
    /// It replaces the command.
    pub instead: bool,
    /// As of triggers.
    pub enabled: String,
}

/// A foreign key that acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cascade {
    /// Its name.
    pub constraint: String,
    /// The table that has it, whose rows change.
    pub table: ObjectName,
    /// What happens to them on a delete: `cascade`, `set null` or `set default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<String>,
    /// The same on an update of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_update: Option<String>,
}

impl SideEffects {
    /// Nobody could be asked.
    #[must_use]
    pub fn not_asked() -> Self {
        Self { not_asked: true, ..Self::default() }
    }

    /// What a decision binds: everything but numbers, which change by the minute.
    #[must_use]
    pub fn bound(&self) -> String {
        let mut bound = self.clone();
        for relation in &mut bound.relations {
            (relation.rows, relation.bytes, relation.partitions) = (None, None, 0);
        }
        // A struct of texts and lists cannot fail to become JSON.
        serde_json::to_string(&bound).unwrap_or_default()
    }

    /// For people, in a few words.
    #[must_use]
    pub fn brief(&self) -> String {
        if self.not_asked {
            return "could not be asked".to_owned();
        }
        let count = |of: &dyn Fn(&Reached) -> usize| self.relations.iter().map(of).sum::<usize>();
        let parts = [
            ("triggers", count(&|reached| reached.triggers.len())),
            ("rules", count(&|reached| reached.rules.len())),
            ("foreign keys", count(&|reached| reached.cascades.len())),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{what}: {count}"))
            .collect();
        if parts.is_empty() { "nothing that is known".to_owned() } else { parts.join(", ") }
    }

    /// For people: a line for each relation with what it is, and lines below it with what it sets off.
    #[must_use]
    pub fn lines(&self) -> Vec<(String, Vec<String>)> {
        let mut lines: Vec<_> =
            self.relations.iter().map(|reached| (reached.headline(), reached.parts())).collect();
        if self.not_asked {
            lines.push(("could not be asked: what it sets off is not known".to_owned(), Vec::new()));
        }
        if lines.is_empty() {
            lines.push(("nothing: no relation of these names is known".to_owned(), Vec::new()));
        }
        if self.cut {
            lines.push(("CUT: there is more than is shown".to_owned(), Vec::new()));
        }
        lines
    }
}

impl Reached {
    fn headline(&self) -> String {
        let mut line = format!("{} {}", self.kind, self.name);
        if let Some(through) = &self.through {
            line.push_str(&format!(", through {through}"));
        }
        if let Some(rows) = self.rows {
            line.push_str(&format!(", ~{rows} rows"));
        }
        if let Some(bytes) = self.bytes {
            line.push_str(&format!(", {}", size(bytes)));
        }
        if self.partitions > 0 {
            line.push_str(&format!(", {} partitions", self.partitions));
        }
        line
    }

    fn parts(&self) -> Vec<String> {
        let unless_enabled = |enabled: &str| match enabled {
            "enabled" => String::new(),
            other => format!(" ({other})"),
        };
        let triggers = self.triggers.iter().map(|trigger| {
            let Trigger { name, timing, function, enabled } = trigger;
            format!("trigger {name} {timing} runs {function}{}", unless_enabled(enabled))
        });
        let rules = self.rules.iter().map(|rule| {
            let instead = if rule.instead { "instead of" } else { "also on" };
            format!("rule {} acts {instead} {}{}", rule.name, rule.event, unless_enabled(&rule.enabled))
        });
        let cascades = self.cascades.iter().map(|cascade| {
            let on = |event: &str, action: &Option<String>| {
                action.as_ref().map(|action| format!(" on {event} {action}")).unwrap_or_default()
            };
            let (delete, update) = (on("delete", &cascade.on_delete), on("update", &cascade.on_update));
            format!("foreign key {} of {}{delete}{update}", cascade.constraint, cascade.table)
        });
        triggers.chain(rules).chain(cascades).collect()
    }
}

/// A size as people say it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut left, mut unit) = (bytes / 1024, "KiB");
    for next in UNITS.iter().skip(1) {
        if left < 10 * 1024 {
            break;
        }
        (left, unit) = (left / 1024, next);
    }
    format!("{left} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { schema: Some("shop".to_owned()), name: name.to_owned() }
    }

    fn found() -> SideEffects {
        let trigger = Trigger {
            name: "audit".to_owned(),
            timing: "after insert or update for each row".to_owned(),
            function: name("log"),
            enabled: "enabled".to_owned(),
        };
        let rule = Rule {
            name: "keep".to_owned(),
            event: "delete".to_owned(),
            instead: true,
            enabled: "always".to_owned(),
        };
        let cascade = Cascade {
            constraint: "orders_fkey".to_owned(),
            table: name("orders"),
            on_delete: Some("cascade".to_owned()),
            on_update: None,
        };
        let relation = Reached {
            name: name("customers"),
            kind: "table".to_owned(),
            through: Some(name("people")),
            rows: Some(200),
            bytes: Some(48 * 1024 * 1024),
            partitions: 3,
            triggers: vec![trigger],
            rules: vec![rule],
            cascades: vec![cascade],
        };
        SideEffects { relations: vec![relation], cut: true, not_asked: false }
    }

    #[test]
    fn people_read_lines() {
        let [(head, parts), (cut, _)] = found().lines().try_into().unwrap();
        assert_eq!(head, "table shop.customers, through shop.people, ~200 rows, 48 MiB, 3 partitions");
        let expected = [
            "trigger audit after insert or update for each row runs shop.log",
            "rule keep acts instead of delete (always)",
            "foreign key orders_fkey of shop.orders on delete cascade",
        ];
        assert_eq!(parts, expected);
        assert!(cut.starts_with("CUT"));
        assert_eq!(found().brief(), "triggers: 1, rules: 1, foreign keys: 1");
        assert_eq!(SideEffects::not_asked().brief(), "could not be asked");
        assert_eq!(SideEffects::not_asked().lines().len(), 1);
        assert!(SideEffects::default().lines()[0].0.starts_with("nothing"));
        for (bytes, text) in [(0, "0 KiB"), (8192, "8 KiB"), (10_485_760, "10 MiB"), (u64::MAX, "16383 PiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_are_not_bound_and_everything_else_is() {
        let mut other = found();
        (other.relations[0].rows, other.relations[0].bytes, other.relations[0].partitions) =
            (None, Some(1), 0);
        assert_eq!(other.bound(), found().bound());
        let changes: [fn(&mut SideEffects); 5] = [
            |found| found.relations[0].triggers.clear(),
            |found| found.relations[0].triggers[0].function = name("other"),
            |found| found.relations[0].cascades[0].on_update = Some("set null".to_owned()),
            |found| found.relations.clear(),
            |found| found.not_asked = true,
        ];
        for change in changes {
            let mut other = found();
            change(&mut other);
            assert_ne!(other.bound(), found().bound());
        }
    }
}
