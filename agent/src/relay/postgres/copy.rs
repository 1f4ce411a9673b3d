//! COPY: FROM STDIN begins, TO STDOUT on its way to the client, its rows cut out of the stream, masked and counted.

use std::sync::Arc;

use super::conversation::{Broken, ClientState, Conversation, Wires};
use super::masking::Masking;
use super::operation::{Operation, OperationId};
use super::replies::CopyInput;
use crate::codec::postgres::backend::CopyResponse;
use crate::codec::postgres::encode::{self, backend};
use crate::codec::postgres::{BackendTag, Frame};
use crate::mask::copy::{CopyColumn, CopyError, CopyFormat, CopyMasker};
use crate::mask::plan::{CellAction, Taint, plan_copy};
use crate::request::{CopyTo, Statement};

/// Why a session ends whose client sends anything but the copy's data.
pub(super) const IN_COPY: &str = "sent something else in the middle of a COPY FROM STDIN";

/// A copy in progress.
pub(crate) struct CopyOut {
    /// One of its messages is no row.
    decorated: bool,
    operation: OperationId,
    /// `None`: nothing in this session can need masking.
    masker: Option<CopyMasker>,
    /// Each message means something by itself, so none is cut in two; they are counted and not recorded.
    framed: bool,
    /// Names of the rules that mask its columns.
    rules: Vec<String>,
    out: Vec<u8>,
}

impl std::fmt::Debug for CopyOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOut").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// How a copy's columns are to be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyPlan {
    format: CopyFormat,
    /// `None`: every column is searched, however many there are.
    columns: Option<Vec<CopyColumn>>,
    rules: Vec<String>,
}

/// Why a copy of masked data cannot be let through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyRefused {
    /// A query's outputs carry no origin in the copy protocol.
    #[error(
        "COPY (query) TO STDOUT reads masked columns, and the copy stream does not say which column is which"
    )]
    Query,
    /// The relation is not one the catalogue knows, or its name stands for several.
    #[error("the columns of the copied relation cannot be told")]
    Relation,
    /// An option that is not understood.
    #[error("{0}")]
    Options(#[from] CopyError),
}

impl Masking {
    /// How the copies of these statements are treated; the statements are refused when one cannot be.
    pub(super) fn copy_plan(&self, copy: &CopyTo, taint: Taint) -> Result<CopyPlan, CopyRefused> {
        let options: Vec<(&str, Option<&str>)> =
            copy.options.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let format = CopyFormat::from_options(&options)?;
        let Some(relation) = &copy.relation else {
            if taint != Taint::Clean {
                return Err(CopyRefused::Query);
            }
            return Ok(CopyPlan { format, columns: None, rules: Vec::new() });
        };
        if !self.names_columns() {
            return Ok(CopyPlan { format, columns: None, rules: Vec::new() });
        }
        let (plan, types) = plan_copy(relation, &copy.columns, self.catalog(), self.scanner())
            .ok_or(CopyRefused::Relation)?;
        let columns =
            plan.cells.iter().zip(types).map(|(action, type_oid)| CopyColumn { action: *action, type_oid });
        Ok(CopyPlan { format, columns: Some(columns.collect()), rules: plan.rules })
    }
}

impl CopyPlan {
    /// Whether a copy that announces this many columns is the one that was planned.
    fn columns(&self, announced: usize) -> Option<Vec<CopyColumn>> {
        match &self.columns {
            Some(planned) => (planned.len() == announced).then(|| planned.clone()),
            None => Some(vec![CopyColumn { action: CellAction::Detect, type_oid: 0 }; announced]),
        }
    }
}

impl Conversation {
    pub(super) fn copy_in_begins(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        CopyResponse::decode(frame.tag, frame.body()).map_err(Broken::Server)?;
        if self.current_operation().is_none() {
            return Err(Broken::Unasked("CopyInResponse"));
        }
        match self.replies.begin_copy_in() {
            CopyInput::ToCome => self.client = ClientState::CopyIn,
            CopyInput::Complete => {}
            CopyInput::Interrupted => return Err(Broken::Excess(IN_COPY)),
        }
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }

    pub(super) fn copy_out_begins(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let response = CopyResponse::decode(frame.tag, frame.body()).map_err(Broken::Server)?;
        let Some(id) = self.current_operation() else { return Err(Broken::Unasked("CopyOutResponse")) };
        let Some(operation) = self.operations.get(id) else {
            return Err(Broken::Unasked("CopyOutResponse"));
        };
        if operation.facts.replicates {
            return self.replication_stream_begins(id, frame, wires);
        }
        let statement = operation.statement;
        let decorated = operation.facts.analysis.statements.get(statement).is_some_and(is_decorated);
        let (masker, rules) = if self.masking.describes_portals() {
            let plan =
                operation.facts.sensitivity_of_copy(statement).ok_or(Broken::Unasked("an unplanned COPY"))?;
            let columns =
                plan.columns(response.columns.len()).ok_or(Broken::Unasked("a COPY of other columns"))?;
            let (scanner, key) = self.masking.shared();
            (Some(CopyMasker::new(plan.format.clone(), columns, scanner, key)), plan.rules.clone())
        } else {
            (None, Vec::new())
        };
        self.record.begin_copy(id, u16::try_from(statement).unwrap_or(u16::MAX))?;
        self.copy_out =
            Some(CopyOut { operation: id, masker, framed: false, decorated, rules, out: Vec::new() });
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }

    /// The payload of one CopyData message.
    pub(super) fn copy_data_out(&mut self, data: &[u8], wires: &mut Wires<'_>) -> Result<(), Broken> {
        self.copy_piece_out(data, true, wires)
    }

    /// The same of a piece of a long one; `begins` says whether it is counted as a row.
    fn copy_piece_out(&mut self, data: &[u8], begins: bool, wires: &mut Wires<'_>) -> Result<(), Broken> {
        let Some(copy) = &mut self.copy_out else { return Err(Broken::Unasked("CopyData")) };
        let id = copy.operation;
        // The masker knows rows; without one, messages are counted, of which one is a header or a trailer.
        let (done, extra) =
            copy.masker.as_ref().map_or((0, u64::from(copy.decorated)), |masker| (masker.rows(), 0));
        let full = |operation: &Operation| operation.is_full(done, extra);
        if !copy.framed && !is_trailer(data) && self.operations.get(id).is_some_and(full) {
            return self.cut(id, wires);
        }
        copy.out.clear();
        let out = match &mut copy.masker {
            Some(masker) => {
                masker.push(data, &mut copy.out)?;
                copy.out.as_slice()
            }
            None => data,
        };
        if copy.framed {
            backend::copy_data(wires.client, out)?;
            self.record.leave_out(1);
        } else if !out.is_empty() {
            backend::copy_data(wires.client, out)?;
            self.record.copy_data(out)?;
        }
        let rows = u64::from(copy.masker.is_none() && begins);
        if let Some(operation) = self.operations.get_mut(copy.operation) {
            operation.sent(rows, out.len());
        }
        Ok(())
    }

    /// A CopyData message too long to hold begins.
    pub(super) fn large_copy_data_begins(
        &mut self,
        body: usize,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let Some(copy) = self.copy_out.as_ref() else { return Ok(()) };
        if !copy.framed {
            let counted = copy.masker.is_none();
            if let Some(operation) = self.operations.get_mut(copy.operation).filter(|_| counted) {
                operation.sent(1, 0);
            }
            return Ok(());
        }
        encode::large_header(wires.client, BackendTag::CopyData, body);
        self.record.leave_out(1);
        if let Some(operation) = self.operations.get_mut(copy.operation) {
            operation.sent(1, body);
        }
        Ok(())
    }

    /// A piece of it. What is no more than bytes to the client goes on in a message of its own.
    pub(super) fn large_copy_data_goes_on(
        &mut self,
        piece: &[u8],
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        if self.copy_out.as_ref().is_some_and(|copy| copy.framed) {
            wires.client.extend_from_slice(piece);
            return Ok(());
        }
        self.copy_piece_out(piece, false, wires)
    }

    /// START_REPLICATION: both sides send CopyData from here on.
    pub(super) fn copy_both_begins(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        CopyResponse::decode(frame.tag, frame.body()).map_err(Broken::Server)?;
        let id = self.current_operation();
        let operation = id.and_then(|id| self.operations.get(id));
        let (Some(id), true) = (id, operation.is_some_and(|operation| operation.facts.replicates)) else {
            return Err(Broken::Unasked("CopyBothResponse"));
        };
        self.client = ClientState::CopyIn;
        self.replication_stream_begins(id, frame, wires)
    }

    fn replication_stream_begins(
        &mut self,
        id: OperationId,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        self.record.begin_copy(id, 0)?;
        self.copy_out = Some(CopyOut {
            operation: id,
            masker: None,
            framed: true,
            decorated: false,
            rules: Vec::new(),
            out: Vec::new(),
        });
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }

    pub(super) fn copy_out_ends(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let Some(mut copy) = self.copy_out.take() else { return Err(Broken::Unasked("CopyDone")) };
        if copy.framed {
            // A walsender may still answer a status message that was on its way.
            self.copy_out = Some(copy);
            wires.client.extend_from_slice(frame.bytes);
            return Ok(());
        }
        if let Some(mut masker) = copy.masker.take() {
            copy.out.clear();
            masker.finish(&mut copy.out)?;
            if !copy.out.is_empty() {
                backend::copy_data(wires.client, &copy.out)?;
                self.record.copy_data(&copy.out)?;
            }
            if let Some(operation) = self.operations.get_mut(copy.operation) {
                operation.sent(masker.rows(), copy.out.len());
                for rule in &copy.rules {
                    operation.masked(rule, masker.rows());
                }
                operation.found(&masker.findings());
            }
        }
        wires.client.extend_from_slice(frame.bytes);
        Ok(())
    }
}

/// Whether one message of the copy is no row: a line of column names, or what ends a binary one. A binary one's header comes with
/// its first row (src/backend/commands/copyto.c).
fn is_decorated(statement: &Statement) -> bool {
    let options = statement.copy.iter().flat_map(|copy| &copy.options);
    options
        .into_iter()
        .any(|(name, value)| name == "header" && !matches!(value.as_deref(), Some("false" | "off" | "0")))
}

/// What ends a binary copy: a count of columns of -1
/// (<https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>).
fn is_trailer(data: &[u8]) -> bool {
    data == [0xff, 0xff]
}

/// Kept beside the facts of a text: the plan of each statement's copy.
pub(super) type CopyPlans = Arc<[Option<CopyPlan>]>;
