//! What the OID in a FunctionCall message stands for.

use bytes::Bytes;

use super::error::UpstreamError;
use super::query::{Client, Statement};
use super::side::Question;

/// A function that can be called by its OID: an ordinary one that returns a single value
/// (`src/backend/tcop/fastpath.c` refuses the others).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalledFunction {
    /// In `pg_proc`.
    pub oid: u32,
    /// Schema it is in.
    pub schema: String,
    /// Its own name.
    pub name: String,
    /// Type of its result, an OID.
    pub result_type: u32,
    /// Types of its arguments, OIDs.
    pub argument_types: Vec<u32>,
}

/// OIDs below are PostgreSQL's own, and mean the same as long as the server's data lives (`FirstNormalObjectId`).
pub const FIRST_NORMAL_OID: u32 = 16_384;

const LOOK_UP: &str = "SELECT n.nspname, p.proname, p.prorettype, p.proargtypes \
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     WHERE p.oid = $1::pg_catalog.oid AND p.prokind = 'f' AND NOT p.proretset";

/// Asks which function has an OID.
pub(super) struct WhichFunction(pub(super) u32);

impl Question for WhichFunction {
    type Answer = Option<CalledFunction>;

    async fn put(&self, client: &mut Client) -> Result<Option<CalledFunction>, UpstreamError> {
        let oid = self.0.to_string();
        let mut found = None;
        client
            .run(&[Statement::with(LOOK_UP, &[Some(oid.as_bytes())])], |row| {
                found = Some(read(self.0, row)?);
                Ok(())
            })
            .await?;
        Ok(found)
    }
}

fn read(oid: u32, row: Vec<Option<Bytes>>) -> Result<CalledFunction, UpstreamError> {
    let malformed = || UpstreamError::protocol("a row of pg_proc that cannot be read");
    let mut cells = row.into_iter();
    let mut text = || {
        let cell = cells.next().flatten().ok_or_else(malformed)?;
        String::from_utf8(cell.to_vec()).map_err(|_| malformed())
    };
    let (schema, name) = (text()?, text()?);
    let result_type = text()?.parse().map_err(|_| malformed())?;
    // An `oidvector` is written as numbers with spaces between them.
    let argument_types = text()?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
    Ok(CalledFunction {
        oid,
        schema,
        name,
        result_type,
        argument_types: argument_types.map_err(|_| malformed())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_catalogue_is_read_whole_or_not_at_all() {
        let row = |cells: &[&'static str]| {
            cells.iter().map(|cell| Some(Bytes::from_static(cell.as_bytes()))).collect::<Vec<_>>()
        };
        let function = read(955, row(&["pg_catalog", "lowrite", "23", "23 17"])).unwrap();
        assert_eq!((function.schema.as_str(), function.name.as_str()), ("pg_catalog", "lowrite"));
        assert_eq!((function.result_type, function.argument_types), (23, vec![23, 17]));
        assert_eq!(read(1, row(&["s", "f", "23", ""])).unwrap().argument_types, Vec::<u32>::new());
        for cells in [&["s", "f", "23"][..], &["s", "f", "int", ""], &["s", "f", "23", "23 x"]] {
            assert!(read(1, row(cells)).is_err(), "{cells:?}");
        }
        assert!(read(1, vec![None, None, None, None]).is_err());
    }
}
