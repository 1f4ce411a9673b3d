//! How the rows of one result are treated: which cells are masked or searched, and the rows themselves on their way
//! to the client and the record.

use std::sync::Arc;

use crate::codec::postgres::backend::RowDescription;
use crate::codec::postgres::row::Edit;
use crate::codec::postgres::split::{RowEvent, RowSplitter, ValueEvent};
use crate::codec::postgres::{BackendTag, Format, Frame, encode};
use crate::mask::plan::{CellAction, ResultPlan};
use crate::mask::{DetectedCell, Findings, MaskedCell, Overwriter, StreamScanner, detect_cell, mask_cell};
use crate::record::rows::{ResultColumn, ValueFormat};

use super::conversation::{Broken, Conversation, Wires};
use super::facts::Facts;
use super::masking::Masking;
use super::operation::{Operation, OperationId};

/// The columns of one result.
#[derive(Debug)]
pub(crate) struct Layout {
    /// For the record.
    pub(crate) columns: Vec<ResultColumn>,
    /// What is done with each cell.
    pub(crate) plan: ResultPlan,
    /// Columns that are not simply passed, ascending.
    edits: Vec<u16>,
}

impl Layout {
    pub(crate) fn new(description: RowDescription<'_>, plan: ResultPlan) -> Self {
        let columns = description
            .map(|field| ResultColumn {
                name: String::from_utf8_lossy(field.name.as_bytes()).into_owned(),
                type_oid: field.type_oid,
                format: match field.format {
                    Format::Text => ValueFormat::Text,
                    Format::Binary => ValueFormat::Binary,
                },
            })
            .collect();
        Self::with(columns, plan)
    }

    /// The same of columns that were not described by the server.
    pub(crate) fn with(columns: Vec<ResultColumn>, plan: ResultPlan) -> Self {
        let edits = plan
            .cells
            .iter()
            .enumerate()
            .filter(|(_, action)| **action != CellAction::Pass)
            .filter_map(|(index, _)| u16::try_from(index).ok())
            .collect();
        Self { columns, plan, edits }
    }

    /// A row must have the columns that were described: the plan says nothing of others.
    fn check(&self, columns: u16) -> Result<(), Broken> {
        if usize::from(columns) == self.columns.len() {
            return Ok(());
        }
        Err(Broken::Unasked("a row of other columns than it described,"))
    }

    fn type_and_format(&self, column: usize) -> (u32, crate::mask::Format) {
        self.columns.get(column).map_or((0, crate::mask::Format::Text), |column| {
            let format = match column.format {
                ValueFormat::Binary => crate::mask::Format::Binary,
                ValueFormat::Copy | ValueFormat::Text => crate::mask::Format::Text,
            };
            (column.type_oid, format)
        })
    }

    /// What is done with a cell; a cell the plan does not know is not shown.
    fn action(&self, column: usize) -> CellAction {
        self.plan.cells.get(column).copied().unwrap_or(CellAction::Mask(crate::mask::Method::Null))
    }
}

/// A row too long to hold, on its way through. Its length was promised to the client by its header, so masked bytes
/// are overwritten one for one.
pub(crate) struct LargeRow {
    operation: OperationId,
    layout: Option<Arc<Layout>>,
    splitter: RowSplitter,
    cell: Cell,
    scratch: Vec<u8>,
}

/// The cell the splitter is in.
enum Cell {
    Detect(StreamScanner),
    Mask(Overwriter),
    Pass,
}

/// Rows that come one after the other: what is the same for all of them, and what is counted until another message
/// comes.
pub(crate) struct Passing {
    operation: OperationId,
    /// `None` when nobody described them: they pass as they are.
    layout: Option<Arc<Layout>>,
    /// Rows that may still go to the client when the first of these came.
    left: u64,
    rows: u64,
    bytes: usize,
    masked: u64,
    findings: Findings,
}

/// The layout that was made last: clients that run a prepared statement again have it described each time.
#[derive(Debug)]
pub(crate) struct Latest {
    facts: Arc<Facts>,
    statement: usize,
    /// As the server described it.
    description: Box<[u8]>,
    /// Of the masks.
    epoch: u64,
    layout: Arc<Layout>,
}

impl Conversation {
    /// How the rows that `frame` describes are treated; `description` is what it says.
    pub(super) fn layout_of(
        &mut self,
        facts: &Arc<Facts>,
        statement: usize,
        frame: Frame<'_, BackendTag>,
        description: RowDescription<'_>,
    ) -> Arc<Layout> {
        let epoch = self.facts.epoch();
        if let Some(latest) = &self.latest_layout
            && latest.epoch == epoch
            && latest.statement == statement
            && Arc::ptr_eq(&latest.facts, facts)
            && *latest.description == *frame.body()
        {
            return Arc::clone(&latest.layout);
        }
        let layout = Arc::new(self.masking.layout(facts, statement, description));
        let (facts, description) = (Arc::clone(facts), frame.body().into());
        self.latest_layout =
            Some(Latest { facts, statement, description, epoch, layout: Arc::clone(&layout) });
        layout
    }

    pub(super) fn data_row(
        &mut self,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let mut passing = match self.passing.take() {
            Some(passing) => passing,
            None => self.rows_begin(frame.body())?,
        };
        if passing.rows >= passing.left {
            let operation = passing.operation;
            self.passing = Some(passing);
            return self.cut(operation, wires);
        }
        let Passing { layout, masked, findings, .. } = &mut passing;
        if let Some(layout) = layout {
            layout.check(column_count(frame.body()))?;
        }
        let sent = match layout {
            Some(layout) if !layout.edits.is_empty() => {
                self.edit_row(layout, frame, wires, masked, findings)?
            }
            Some(_) | None => {
                wires.client.extend_from_slice(frame.bytes);
                self.record.row(frame.body())?;
                frame.bytes.len()
            }
        };
        passing.rows += 1;
        passing.bytes += sent;
        self.passing = Some(passing);
        Ok(())
    }

    fn rows_begin(&mut self, first_row: &[u8]) -> Result<Passing, Broken> {
        let Some(operation) = self.current_operation() else { return Err(Broken::Unasked("DataRow")) };
        let layout = self.current_layout(operation);
        self.begin_result(operation, layout.as_deref(), first_row)?;
        let left = self.operations.get(operation).map_or(0, Operation::rows_left);
        Ok(Passing { operation, layout, left, rows: 0, bytes: 0, masked: 0, findings: Findings::default() })
    }

    /// Sends and records a row with its cells masked and searched; gives its length on the wire.
    fn edit_row(
        &mut self,
        layout: &Layout,
        frame: Frame<'_, BackendTag>,
        wires: &mut Wires<'_>,
        masked: &mut u64,
        findings: &mut Findings,
    ) -> Result<usize, Broken> {
        let start = wires.client.len();
        let masking = &self.masking;
        self.rewriter
            .rewrite(frame, &layout.edits, wires.client, |column, value, scratch| {
                edit_cell(layout, masking, usize::from(column), value, scratch, findings, masked)
            })
            .map_err(Broken::Server)?;
        if wires.client.len() == start {
            wires.client.extend_from_slice(frame.bytes);
        }
        let sent = wires.client.get(start..).unwrap_or_default();
        self.record.row(sent.get(crate::codec::postgres::frame::HEADER_BYTES..).unwrap_or_default())?;
        Ok(sent.len())
    }

    /// Another message than a row comes, or none: the operation is told what was counted.
    pub(super) fn rows_pause(&mut self) {
        let Some(passing) = self.passing.take() else { return };
        let Some(operation) = self.operations.get_mut(passing.operation) else { return };
        operation.sent(passing.rows, passing.bytes);
        for rule in passing.layout.iter().flat_map(|layout| &layout.plan.rules) {
            operation.masked(rule, passing.masked);
        }
        operation.found(&passing.findings);
    }

    fn count_row(&mut self, id: OperationId, bytes: usize) {
        if let Some(operation) = self.operations.get_mut(id) {
            operation.sent(1, bytes);
        }
    }

    /// Tells the record which columns come, once per result. Rows that nobody described pass only when nothing in
    /// this session could need masking.
    pub(super) fn begin_result(
        &mut self,
        id: OperationId,
        layout: Option<&Layout>,
        body: &[u8],
    ) -> Result<(), Broken> {
        let Some(operation) = self.operations.get_mut(id) else { return Err(Broken::Unasked("rows")) };
        if operation.rows_begun {
            return Ok(());
        }
        operation.rows_begun = true;
        let statement = u16::try_from(operation.statement).unwrap_or(u16::MAX);
        match layout {
            Some(layout) => self.record.begin_rows(id, statement, &layout.columns)?,
            None if operation.facts.sensitivity.describe => {
                return Err(Broken::Unasked("rows nobody described"));
            }
            None => {
                let count = column_count(body);
                let column = |number| ResultColumn {
                    name: format!("column {number}"),
                    type_oid: 0,
                    format: ValueFormat::Text,
                };
                let columns: Vec<ResultColumn> = (1..=count).map(column).collect();
                self.record.begin_rows(id, statement, &columns)?;
            }
        }
        Ok(())
    }

    pub(super) fn large_row_begins(&mut self, body: usize, wires: &mut Wires<'_>) -> Result<(), Broken> {
        let Some(operation) = self.current_operation() else { return Err(Broken::Unasked("DataRow")) };
        let layout = self.current_layout(operation);
        self.begin_result(operation, layout.as_deref(), &[])?;
        if self.operations.get(operation).is_some_and(|operation| operation.rows_left() == 0) {
            return self.cut(operation, wires);
        }
        encode::large_header(wires.client, BackendTag::DataRow, body);
        let splitter = RowSplitter::new(body);
        self.large_row =
            Some(LargeRow { operation, layout, splitter, cell: Cell::Pass, scratch: Vec::new() });
        Ok(())
    }

    pub(super) fn large_row_goes_on(
        &mut self,
        bytes: &[u8],
        left: usize,
        wires: &mut Wires<'_>,
    ) -> Result<(), Broken> {
        let Some(mut row) = self.large_row.take() else { return Err(Broken::Unasked("DataRow")) };
        let passed = row.pass(bytes, &self.masking, wires);
        if left > 0 || passed.is_err() {
            self.large_row = Some(row);
            return passed;
        }
        self.record.leave_out(1);
        self.count_row(row.operation, 0);
        Ok(())
    }
}

impl LargeRow {
    fn pass(&mut self, mut bytes: &[u8], masking: &Masking, wires: &mut Wires<'_>) -> Result<(), Broken> {
        while let Some(event) = self.splitter.next(&mut bytes).map_err(Broken::Server)? {
            match event {
                RowEvent::Start { columns, .. } => {
                    if let Some(layout) = &self.layout {
                        layout.check(columns)?;
                    }
                    encode::count(wires.client, columns);
                }
                RowEvent::Cell(ValueEvent::Start { index, length }) => {
                    encode::value_length(wires.client, length);
                    if let Some(length) = length {
                        self.cell = self.treat(usize::from(index), length as usize);
                    }
                }
                RowEvent::Cell(ValueEvent::Bytes { bytes, left, .. }) => {
                    self.piece(bytes, masking, wires);
                    if left == 0 {
                        self.end_cell(masking, wires);
                    }
                }
                RowEvent::End => {}
            }
        }
        Ok(())
    }

    fn piece(&mut self, piece: &[u8], masking: &Masking, wires: &mut Wires<'_>) {
        match &mut self.cell {
            Cell::Pass => wires.client.extend_from_slice(piece),
            Cell::Mask(overwriter) => {
                let start = wires.client.len();
                wires.client.extend_from_slice(piece);
                overwriter.overwrite(wires.client.get_mut(start..).unwrap_or_default());
            }
            Cell::Detect(stream) => {
                self.scratch.clear();
                stream.push(masking.scanner(), masking.key(), piece, &mut self.scratch);
                wires.client.extend_from_slice(&self.scratch);
            }
        }
    }

    fn treat(&self, column: usize, length: usize) -> Cell {
        let Some(layout) = &self.layout else { return Cell::Pass };
        let (type_oid, format) = layout.type_and_format(column);
        match layout.action(column) {
            CellAction::Pass => Cell::Pass,
            CellAction::Detect => Cell::Detect(StreamScanner::same_length()),
            CellAction::Mask(_) => Cell::Mask(Overwriter::new(type_oid, format, length)),
        }
    }

    fn end_cell(&mut self, masking: &Masking, wires: &mut Wires<'_>) {
        if let Cell::Detect(stream) = std::mem::replace(&mut self.cell, Cell::Pass) {
            self.scratch.clear();
            stream.finish(masking.scanner(), masking.key(), &mut self.scratch);
            wires.client.extend_from_slice(&self.scratch);
        }
    }
}

fn column_count(row: &[u8]) -> u16 {
    row.first_chunk::<2>().map_or(0, |count| u16::from_be_bytes(*count))
}

/// Rewrites one cell into `scratch`, or leaves it.
pub(super) fn edit_cell(
    layout: &Layout,
    masking: &Masking,
    column: usize,
    value: &[u8],
    scratch: &mut Vec<u8>,
    findings: &mut Findings,
    masked: &mut u64,
) -> Edit {
    let (type_oid, format) = layout.type_and_format(column);
    match layout.action(column) {
        CellAction::Pass => Edit::Keep,
        CellAction::Mask(method) => {
            *masked += 1;
            match mask_cell(method, type_oid, format, value, masking.key()) {
                MaskedCell::Null => Edit::Null,
                MaskedCell::Bytes(bytes) => {
                    scratch.extend_from_slice(&bytes);
                    Edit::Replace
                }
            }
        }
        CellAction::Detect => {
            match detect_cell(masking.scanner(), type_oid, format, value, masking.key(), scratch, findings) {
                DetectedCell::Unchanged => Edit::Keep,
                DetectedCell::Null => Edit::Null,
                DetectedCell::Written => Edit::Replace,
            }
        }
    }
}
