//! The masks of one session: the policy's rules applied to this database's catalogue, and what follows for each
//! statement, result and text.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;

use super::facts::{Call, Facts};
use super::layout::Layout;
use super::shown;
use crate::codec::postgres::backend::RowDescription;
use crate::codec::postgres::report::{FieldEdit, Report};
use crate::codec::postgres::{BackendTag, Format, Frame};
use crate::gate::Admission;
use crate::mask::catalog::Relation;
use crate::mask::plan::{self, ErrorTexts, Field, Taint};
use crate::mask::{ColumnRule, Dependence, Detector, HashKey, MaskCatalog, Method, Scanner, dependence};
use crate::policy::Policy;
use crate::policy::rule::{MaskDirection, MaskRule, MaskTarget, Protocol};
use crate::record::asked::Parameters;
use crate::record::rows::{ResultColumn, ValueFormat};
use crate::request::Statement;
use crate::upstream::CalledFunction;

/// Replaces texts that may quote masked values.
const GENERIC_MESSAGE: &str = "the statement failed; its text is withheld because it may quote masked values";

/// Fields of a report that quote no data: where in the statement, and where in the server's source
/// (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).
const POSITION: u8 = b'P';
const ROUTINE: u8 = b'R';

/// What a text may carry of masked columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sensitivity {
    /// Before it runs.
    pub(crate) taint: Taint,
    /// Error and notice texts must be replaced.
    pub(crate) generic_errors: bool,
    /// Results must be described by the server before rows are passed on.
    pub(crate) describe: bool,
}

/// Shared by sessions of the same policy, connection and subject's exemptions.
#[derive(Clone)]
pub(crate) struct Masking(Arc<Applied>, Held);

/// What parameters of the session may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// What clients sent.
    Known,
    /// What code that nobody saw has set them to.
    Doubted,
}

/// Rules applied to a catalogue.
pub(super) struct Applied {
    catalog: Arc<MaskCatalog>,
    /// The same rules over no relations at all.
    blind: Arc<MaskCatalog>,
    scanner: Arc<Scanner>,
    key: Arc<HashKey>,
}

/// The rules of a policy that apply to one connection and subject.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) columns: Vec<ColumnRule>,
    pub(crate) detectors: Vec<(Detector, Method)>,
}

impl Rules {
    /// Those of a policy.
    pub(crate) fn of(policy: &Policy, admission: &Admission) -> Self {
        let applies = |rule: &&MaskRule| {
            rule.on.is_none_or(|protocol| protocol == Protocol::Postgres)
                && rule.direction == MaskDirection::Response
                && (rule.connections.is_empty() || rule.connections.contains(&admission.connection().name))
                && !rule.exempt.iter().any(|group| admission.subject().groups.contains(group))
        };
        let mut rules = Self { columns: Vec::new(), detectors: Vec::new() };
        for rule in policy.masks.iter().filter(applies) {
            match &rule.what {
                MaskTarget::Columns(patterns) => {
                    rules.columns.extend(patterns.iter().map(|pattern| ColumnRule {
                        name: pattern.text.clone(),
                        schema: pattern.schema.clone(),
                        table: pattern.table.clone(),
                        column: pattern.column.clone(),
                        method: rule.with,
                        terms: rule.predicates.into(),
                    }))
                }
                MaskTarget::Detect(detectors) => {
                    rules.detectors.extend(detectors.iter().map(|detector| (*detector, rule.with)));
                }
                // Places of HTTP messages.
                MaskTarget::Form(_) | MaskTarget::Headers(_) | MaskTarget::Json(_) => {}
            }
        }
        rules
    }
}

impl Masking {
    /// Applies rules to a database. Without column rules no catalogue is needed.
    pub(crate) fn new(rules: &Rules, relations: &[Relation], key: Arc<HashKey>) -> Result<Self, String> {
        let scanner = Arc::new(Scanner::new(&rules.detectors).map_err(|error| error.to_string())?);
        let catalog = Arc::new(MaskCatalog::build(relations, &rules.columns));
        let blind = Arc::new(MaskCatalog::build(&[], &rules.columns));
        Ok(Self(Arc::new(Applied { catalog, blind, scanner, key }), Held::Known))
    }

    /// What another session has.
    pub(super) fn sharing(applied: Arc<Applied>) -> Self {
        Self(applied, Held::Known)
    }

    /// What sessions can share.
    pub(super) fn applied(&self) -> &Arc<Applied> {
        &self.0
    }

    /// The same rules over a catalogue that knows no relation, for when what is known may no longer be true: every
    /// column of a relation is masked. PostgreSQL's own relations too: in an open transaction a view can take their names.
    pub(crate) fn without_catalogue(&self) -> Self {
        let Applied { scanner, key, blind, .. } = &*self.0;
        let applied = Applied {
            catalog: Arc::clone(blind),
            blind: Arc::clone(blind),
            scanner: Arc::clone(scanner),
            key: Arc::clone(key),
        };
        Self(Arc::new(applied), self.1)
    }

    /// The same masks in a session whose parameters may hold masked values.
    pub(crate) fn doubting_parameters(&self) -> Self {
        Self(Arc::clone(&self.0), Held::Doubted)
    }

    /// Whether parameters of the session may hold masked values.
    pub(crate) fn doubts_parameters(&self) -> bool {
        self.1 == Held::Doubted && self.names_columns()
    }

    /// Whether any rule names columns: then the catalogue matters.
    pub(crate) fn names_columns(&self) -> bool {
        self.0.catalog.is_active()
    }

    /// Whether results of portals must be described before their rows pass.
    pub(crate) fn describes_portals(&self) -> bool {
        self.names_columns() || !self.0.scanner.is_empty()
    }

    pub(super) fn scanner(&self) -> &Scanner {
        &self.0.scanner
    }

    /// The detectors and the hash key, for a masker that outlives a borrow.
    pub(super) fn shared(&self) -> (Arc<Scanner>, Arc<HashKey>) {
        (Arc::clone(&self.0.scanner), Arc::clone(&self.0.key))
    }

    pub(super) fn catalog(&self) -> &MaskCatalog {
        &self.0.catalog
    }

    pub(super) fn key(&self) -> &HashKey {
        &self.0.key
    }

    /// What these statements may carry.
    pub(crate) fn sensitivity(&self, statements: &[Statement]) -> Sensitivity {
        let catalog = &*self.0.catalog;
        let taint = statements.iter().map(|statement| plan::statement_taint(statement, catalog)).max();
        let taint = taint.unwrap_or(Taint::Clean);
        Sensitivity {
            taint,
            generic_errors: statements
                .iter()
                .any(|statement| plan::error_texts(statement, catalog) == ErrorTexts::Generic),
            describe: taint != Taint::Clean || !self.0.scanner.is_empty(),
        }
    }

    /// On which masked columns the results of these statements depend, where the masks do not let them.
    pub(crate) fn dependence(&self, statements: &[Statement]) -> Option<Dependence> {
        let each = statements.iter().map(|statement| dependence(statement, &*self.0.catalog));
        each.fold(None, Dependence::stricter)
    }

    /// How the rows of one result are treated.
    pub(super) fn layout(&self, facts: &Facts, statement: usize, description: RowDescription<'_>) -> Layout {
        let statement = facts.analysis.statements.get(statement);
        let hides_origins = statement.is_some_and(shown::hides_origins);
        let fields: Vec<Field> = description
            .clone()
            .map(|field| Field {
                table_oid: if hides_origins { 0 } else { field.table_oid },
                attnum: if hides_origins { 0 } else { field.attribute },
                type_oid: field.type_oid,
                format: mask_format(field.format),
            })
            .collect();
        let plan = plan::plan(statement, &self.0.catalog, &self.0.scanner, &fields);
        Layout::new(description, plan)
    }

    /// How the one value that a called function returns is treated.
    pub(super) fn result_layout(&self, facts: &Facts, call: &Call) -> Layout {
        let CalledFunction { name, result_type, .. } = &*call.function;
        let format = mask_format(call.result_format);
        let field = Field { table_oid: 0, attnum: 0, type_oid: *result_type, format };
        let statement = facts.analysis.statements.first();
        let plan = plan::plan(statement, &self.0.catalog, &self.0.scanner, &[field]);
        let format = match call.result_format {
            Format::Text => ValueFormat::Text,
            Format::Binary => ValueFormat::Binary,
        };
        Layout::with(vec![ResultColumn { name: name.clone(), type_oid: *result_type, format }], plan)
    }

    /// A text as it may be recorded.
    pub(crate) fn scan_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.scan_bytes(text.as_bytes()) {
            None => Cow::Borrowed(text),
            Some(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
        }
    }

    /// Bytes with everything detected rewritten; `None` when nothing was.
    pub(crate) fn scan_bytes(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.0.scanner.is_empty() {
            return None;
        }
        let mut masked = Vec::new();
        let findings = self.0.scanner.mask_text(text, &self.0.key, &mut masked);
        (!findings.is_empty()).then_some(masked)
    }

    /// Parameters as they may be recorded.
    pub(crate) fn scan_parameters(&self, mut values: Vec<Option<(Cow<'_, [u8]>, u32)>>) -> Parameters {
        for (value, _) in values.iter_mut().flatten() {
            if let Some(masked) = self.scan_bytes(value) {
                *value = Cow::Owned(masked);
            }
        }
        Parameters::new(values.iter().map(|value| value.as_ref().map(|(bytes, oid)| (&**bytes, *oid))))
    }

    /// Passes an error or notice on: as it is, scanned, or with its text withheld.
    pub(super) fn forward_report(
        &self,
        frame: Frame<'_, BackendTag>,
        report: &Report<'_>,
        generic: bool,
        client: &mut BytesMut,
    ) {
        if generic {
            report.rewrite(client, |code, _| match code {
                Report::MESSAGE => FieldEdit::Replace(Cow::Borrowed(GENERIC_MESSAGE)),
                Report::SEVERITY | Report::SEVERITY_RAW | Report::CODE | POSITION | ROUTINE => {
                    FieldEdit::Keep
                }
                _ => FieldEdit::Drop,
            });
        } else if self.0.scanner.is_empty() {
            client.extend_from_slice(frame.bytes);
        } else {
            report.rewrite(client, |_, text| match self.scan_bytes(text.as_bytes()) {
                None => FieldEdit::Keep,
                Some(masked) => FieldEdit::Replace(Cow::Owned(String::from_utf8_lossy(&masked).into_owned())),
            });
        }
    }

    /// The primary message as it may be recorded.
    pub(super) fn report_message(&self, report: &Report<'_>, generic: bool, bytes_max: usize) -> String {
        if generic {
            return GENERIC_MESSAGE.to_owned();
        }
        let text =
            report.get(Report::MESSAGE).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        let mut text = self.scan_text(&text.unwrap_or_default()).into_owned();
        text.truncate(text.floor_char_boundary(bytes_max));
        text
    }
}

pub(super) fn mask_format(format: Format) -> crate::mask::Format {
    match format {
        Format::Text => crate::mask::Format::Text,
        Format::Binary => crate::mask::Format::Binary,
    }
}
