//! What an agent asks for, in words that rules can match: operations, statements, effects, objects.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub mod http;
pub mod kubernetes;
mod lineage;
pub mod shell;
pub mod side_effects;
pub mod sql;
pub mod ssh;

pub use lineage::{Lineage, Reference, Source, Sources};

/// How far an operation reaches. Ordered: `Unknown` ranks above all, because what is not understood is feared most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Looks only.
    Read,
    /// Changes data.
    Write,
    /// Changes schema objects.
    Ddl,
    /// Changes who may do what, or reaches outside the database.
    Admin,
    /// Cannot be told from the text.
    Unknown,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Ddl => "ddl",
            Self::Admin => "admin",
            Self::Unknown => "unknown",
        })
    }
}

/// A relation, function, database, role or other named object, folded and unquoted as PostgreSQL would.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Schema as written, or what PostgreSQL implies for its own catalogues; `None` when `search_path` decides;
    /// empty for what lives in no schema (databases, roles, extensions, schemas themselves).
    pub schema: Option<String>,
    /// The object's own name.
    pub name: String,
}

impl ObjectName {
    /// A database, role, extension or other object that lives in no schema.
    #[must_use]
    pub fn outside_schemas(name: &str) -> Self {
        Self { schema: Some(String::new()), name: name.to_owned() }
    }

    /// The name as lists and rules show it: `public.orders` also when `search_path` decides, because that is where
    /// PostgreSQL looks unless told otherwise; a database is just its name.
    #[must_use]
    pub fn qualified(&self) -> String {
        match self.schema.as_deref() {
            None => format!("public.{}", self.name),
            Some("") => self.name.clone(),
            Some(schema) => format!("{schema}.{}", self.name),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schema.as_deref() {
            None | Some("") => f.write_str(&self.name),
            Some(schema) => write!(f, "{schema}.{}", self.name),
        }
    }
}

/// One statement of a Query or Parse message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// PostgreSQL's command tag in lower case: `select`, `drop database`, `create table as`.
    pub kind: String,
    /// The highest effect of anything inside the statement.
    pub effect: Effect,
    /// Why the effect is what it is, when the tag alone does not say (`calls pg_read_file`).
    pub reason: Option<String>,
    /// Relations whose rows are read (CTE names resolved away).
    pub reads: Vec<ObjectName>,
    /// Objects written, created, altered, dropped, locked or granted on.
    pub writes: Vec<ObjectName>,
    /// Functions called, also through operators that are not PostgreSQL's own.
    pub functions: Vec<ObjectName>,
    /// Those of them that no list knows, and what the statement does apart from them.
    pub unlisted: Unlisted,
    /// It gives an object another name or schema, so that names mean something else afterwards.
    pub renames: bool,
    /// UPDATE or DELETE without an effective WHERE (or MERGE/TRUNCATE of a whole table).
    pub unbounded: bool,
    /// What the statement's columns could carry, for masking.
    pub columns: ColumnUse,
    /// What it does to the session: names it prepares, cursors it opens, transaction control.
    pub session: SessionAction,
    /// COPY … TO STDOUT, as far as masking its stream needs it.
    pub copy: Option<CopyTo>,
    /// It is a COPY, or runs one by name, or may: data may go either way while it runs.
    pub copies: bool,
    /// Byte range in the message's text; [`WHOLE_TEXT`] when it stands for every text of a shape.
    pub span: Range<usize>,
}

/// Calls of a statement that its text cannot tell the effect of; a database's catalogue may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// Functions that are not on a list.
    pub functions: BTreeSet<ObjectName>,
    /// Operators that are not PostgreSQL's own.
    pub operators: BTreeSet<ObjectName>,
    /// The highest effect of everything else.
    pub rest: Effect,
    /// Why that is what it is.
    pub rest_reason: Option<String>,
    /// The catalogue has found code that the text does not show: a name on a list may be another function, a view calls one.
    pub hidden: bool,
}

impl Unlisted {
    /// Calls nothing unlisted, and has this effect.
    #[must_use]
    pub fn none(effect: Effect, reason: Option<String>) -> Self {
        Self {
            functions: BTreeSet::new(),
            operators: BTreeSet::new(),
            rest: effect,
            rest_reason: reason,
            hidden: false,
        }
    }

    /// Whether everything it calls is on a list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.operators.is_empty()
    }
}

/// The span of a statement that is all of its text, however long that is.
pub const WHOLE_TEXT: Range<usize> = 0..usize::MAX;

/// What a COPY … TO STDOUT sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyTo {
    /// The copied relation; `None` when it is a query's result.
    pub relation: Option<ObjectName>,
    /// Columns as listed; empty means all.
    pub columns: Vec<String>,
    /// Options in lower case, with their value where it is a plain word, text or number.
    pub options: Vec<(String, Option<String>)>,
}

/// Which columns a statement touches, and what each of its top-level outputs is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnUse {
    /// Last component of every column reference anywhere in the statement (also in WHERE, ORDER BY, ON, INSERT targets).
    pub names: BTreeSet<String>,
    /// Those of `names` that occur only as targets of an INSERT's column list or on the left of SET or COPY FROM, in no
    /// expression: their old values are not read. Leaving a name out is always safe.
    pub assigned_only: BTreeSet<String>,
    /// References of the form `label.name` where the label stands for a relation: if the relation has no such column,
    /// PostgreSQL calls the function `name` with the whole row
    /// (<https://www.postgresql.org/docs/current/xfunc-sql.html#XFUNC-SQL-COMPOSITE-FUNCTIONS>).
    pub attributes: BTreeSet<(ObjectName, String)>,
    /// A star, a whole-row reference, `NATURAL JOIN`, `TABLE t` or a list of column aliases (`FROM t AS a(x, y)`) occurs
    /// somewhere: every column may be touched.
    pub whole_rows: bool,
    /// Calls a function that is not on the list of pure ones: values may be fetched or moved unseen.
    pub opaque_calls: bool,
    /// Rows read go somewhere other than the client (INSERT … SELECT, CREATE TABLE AS, SELECT INTO, UPDATE … FROM,
    /// MERGE), or a column is set to what an expression reads from columns.
    pub moves_rows: bool,
    /// FROM consists of plain relations only (no subquery, CTE, set operation or function, and no list of column aliases,
    /// which gives masked columns other names), so an output's own references say everything about it.
    pub plain_from: bool,
    /// Every top-level output is a column by its own name or a star of such: its origin will be known.
    pub plain_outputs: bool,
    /// One entry per top-level output, in order. Empty when a star makes the list unknown before execution, or when
    /// the statement returns no rows.
    pub outputs: Vec<Output>,
    /// Where outputs come from through subqueries and under other names, and what the result depends on besides.
    pub lineage: Arc<Lineage>,
}

/// One top-level output of a SELECT or RETURNING list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Column names its expression references (last components).
    pub names: BTreeSet<String>,
    /// A column by its own name and nothing else.
    pub plain: bool,
    /// Contains a whole-row reference or star.
    pub whole_row: bool,
    /// Contains a subquery or a call of a function that is not known to be pure.
    pub opaque: bool,
}

/// What a statement does to the session that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionAction {
    /// BEGIN or START TRANSACTION.
    Begin,
    /// CLOSE of a cursor; `None` is ALL.
    CloseCursor(Option<String>),
    /// COMMIT, ROLLBACK, PREPARE TRANSACTION: the transaction ends.
    EndTransaction,
    /// DEALLOCATE; `None` is ALL.
    Deallocate(Option<String>),
    /// DECLARE of a cursor; what it reads is in the statement's own `reads` and `columns`.
    DeclareCursor(String),
    /// DISCARD ALL (forgets prepared statements, cursors, settings).
    DiscardAll,
    /// EXECUTE of a SQL-prepared statement (also inside EXPLAIN ANALYZE or CREATE TABLE AS).
    Execute(String),
    /// FETCH or MOVE from a cursor.
    FetchCursor(String),
    /// Nothing.
    None,
    /// PREPARE: the name; the body's effect is already the statement's.
    Prepare(String),
    /// SAVEPOINT, RELEASE, ROLLBACK TO: the transaction goes on.
    Savepoint,
    /// SET, RESET or `set_config` of a parameter, lower case; the new value when it is static text.
    Set {
        /// Parameter name; `all` for RESET ALL.
        name: String,
        /// Static value, if it could be read.
        value: Option<String>,
    },
}

impl SessionAction {
    /// Whether it runs what an earlier statement prepared or declared: its own text says nothing of that.
    #[must_use]
    pub fn runs_another(&self) -> bool {
        match self {
            Self::Execute(_) | Self::FetchCursor(_) => true,
            Self::Begin
            | Self::CloseCursor(_)
            | Self::Deallocate(_)
            | Self::DeclareCursor(_)
            | Self::DiscardAll
            | Self::EndTransaction
            | Self::None
            | Self::Prepare(_)
            | Self::Savepoint
            | Self::Set { .. } => false,
        }
    }
}
