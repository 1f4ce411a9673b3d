//! What servers say: a borrowed decoder for each backend message that has fields. Errors and notices: `report`.
//!
//! Every decoder takes a body without its header, reads all of it and refuses what is left over.

use std::fmt;

use super::BackendTag;
use super::error::{DecodeError, Message};
use super::fields::{Fields, Format, Formats, Text, Values};
use super::frame::Frame;
use super::report::Report;
use super::startup::{CancelKey, ProtocolVersion};

fn fields(tag: BackendTag, body: &[u8]) -> Fields<'_> {
    Fields::new(Message::Backend(tag), body)
}

/// A step of authentication.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The client is in (0).
    Ok,
    /// Kerberos V5 (2); no server since 9.3 asks for it.
    KerberosV5,
    /// The password as it is (3).
    CleartextPassword,
    /// A digest of password, user and this salt (5).
    Md5Password {
        /// Chosen by the server for this connection.
        salt: [u8; 4],
    },
    /// GSSAPI (7).
    Gss,
    /// GSSAPI or SSPI data (8).
    GssContinue(&'a [u8]),
    /// SSPI (9).
    Sspi,
    /// One of these SASL mechanisms (10).
    Sasl(SaslMechanisms<'a>),
    /// The mechanism's challenge (11).
    SaslContinue(&'a [u8]),
    /// The mechanism's outcome (12).
    SaslFinal(&'a [u8]),
}

impl<'a> Authentication<'a> {
    /// Reads an Authentication body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed or asks for something unknown.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::Authentication, body);
        let kind = fields.u32("kind")?;
        let step = match kind {
            0 => Self::Ok,
            2 => Self::KerberosV5,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password { salt: fields.bytes4("salt")? },
            7 => Self::Gss,
            9 => Self::Sspi,
            10 => Self::Sasl(SaslMechanisms::read(&mut fields)?),
            8 => Self::GssContinue(fields.take(fields.rest().len(), "data")?),
            11 => Self::SaslContinue(fields.take(fields.rest().len(), "data")?),
            12 => Self::SaslFinal(fields.take(fields.rest().len(), "data")?),
            other => return Err(fields.impossible("kind", other)),
        };
        fields.end()?;
        Ok(step)
    }

    /// What is asked, without any data; for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::KerberosV5 => "KerberosV5",
            Self::CleartextPassword => "CleartextPassword",
            Self::Md5Password { .. } => "Md5Password",
            Self::Gss => "Gss",
            Self::GssContinue(_) => "GssContinue",
            Self::Sspi => "Sspi",
            Self::Sasl(_) => "Sasl",
            Self::SaslContinue(_) => "SaslContinue",
            Self::SaslFinal(_) => "SaslFinal",
        }
    }
}

impl fmt::Debug for Authentication<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authentication({})", self.name())
    }
}

/// Names of SASL mechanisms in the server's order of preference; at least one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslMechanisms<'a>(&'a [u8]);

impl<'a> SaslMechanisms<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let list = fields.rest();
        if fields.text("mechanism")?.is_empty() {
            return Err(fields.impossible("number of mechanisms", 0));
        }
        while !fields.text("mechanism")?.is_empty() {}
        Ok(Self(list))
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|byte| *byte == 0).take_while(|name| !name.is_empty())
    }
}

/// Reads BackendKeyData: what a cancel request for this session must prove.
///
/// # Errors
/// [`DecodeError`] when the body is malformed.
pub fn decode_backend_key_data(body: &[u8]) -> Result<CancelKey<'_>, DecodeError> {
    CancelKey::read(&mut fields(BackendTag::BackendKeyData, body))
}

/// A session parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The parameter's name.
    pub name: Text<'a>,
    /// Its value.
    pub value: Text<'a>,
}

impl<'a> ParameterStatus<'a> {
    /// Reads a ParameterStatus body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::ParameterStatus, body);
        let name = fields.text("name")?;
        let value = fields.text("value")?;
        fields.end()?;
        Ok(Self { name, value })
    }
}

/// Whether the session is in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TransactionStatus {
    /// In none (`I`).
    Idle = b'I',
    /// In one that works (`T`).
    InTransaction = b'T',
    /// In one that has failed and waits for its end (`E`).
    Failed = b'E',
}

impl TransactionStatus {
    /// Reads a ReadyForQuery body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::ReadyForQuery, body);
        let status = match fields.u8("transaction status")? {
            b'I' => Self::Idle,
            b'T' => Self::InTransaction,
            b'E' => Self::Failed,
            other => return Err(fields.impossible("transaction status", other)),
        };
        fields.end()?;
        Ok(status)
    }
}

/// One column of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldDescription<'a> {
    /// The label, which the statement chooses freely.
    pub name: Text<'a>,
    /// OID of the table the value comes from unchanged; 0 when it is computed.
    pub table_oid: u32,
    /// Attribute number in that table; 0 for none or for the whole row.
    pub attribute: i16,
    /// OID of the type.
    pub type_oid: u32,
    /// Size of the type in bytes; negative when it varies.
    pub type_length: i16,
    /// The type's modifier, `pg_attribute.atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// How values are written; `Text` when only a statement was described.
    pub format: Format,
}

impl<'a> FieldDescription<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: fields.text("column name")?,
            table_oid: fields.u32("table OID")?,
            attribute: fields.i16("attribute number")?,
            type_oid: fields.u32("type OID")?,
            type_length: fields.i16("type length")?,
            type_modifier: fields.i32("type modifier")?,
            format: fields.format("column format")?,
        })
    }
}

/// The columns of the rows to come: an iterator over a checked body.
#[derive(Clone)]
pub struct RowDescription<'a> {
    fields: Fields<'a>,
    left: u16,
}

impl<'a> RowDescription<'a> {
    /// Reads a RowDescription body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::RowDescription, body);
        let left = fields.u16("number of columns")?;
        let description = Self { fields: fields.clone(), left };
        for _ in 0..left {
            FieldDescription::read(&mut fields)?;
        }
        fields.end()?;
        Ok(description)
    }
}

impl<'a> Iterator for RowDescription<'a> {
    type Item = FieldDescription<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // INVARIANT: `decode` walked the same bytes, so this cannot fail; were it to, iteration would end.
        FieldDescription::read(&mut self.fields).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RowDescription<'_> {}

impl fmt::Debug for RowDescription<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowDescription({} columns left)", self.left)
    }
}

/// Reads a DataRow: its cells in order, NULL as `None`.
///
/// # Errors
/// [`DecodeError`] when the cells do not fill the body exactly.
pub fn decode_data_row(body: &[u8]) -> Result<Values<'_>, DecodeError> {
    let mut fields = fields(BackendTag::DataRow, body);
    let count = fields.u16("number of columns")?;
    let cells = Values::read(&mut fields, count, "cell")?;
    fields.end()?;
    Ok(cells)
}

/// A command's tag, such as `INSERT 0 5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The whole tag.
    pub tag: Text<'a>,
}

impl<'a> CommandComplete<'a> {
    /// Reads a CommandComplete body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::CommandComplete, body);
        let tag = fields.text("tag")?;
        fields.end()?;
        Ok(Self { tag })
    }

    /// How many rows the command returned, changed or moved; `None` when its tag counts none.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let (_, count) = self.tag.to_str()?.rsplit_once(' ')?;
        count.parse().ok()
    }
}

/// COPY begins: the formats of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// Text (which includes CSV) or binary rows.
    pub format: Format,
    /// The format of each column.
    pub columns: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    /// Reads the body of a CopyInResponse, CopyOutResponse or CopyBothResponse.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(tag: BackendTag, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(tag, body);
        let format = match fields.u8("format")? {
            0 => Format::Text,
            1 => Format::Binary,
            other => return Err(fields.impossible("format", other)),
        };
        let count = fields.u16("number of columns")?;
        let columns = fields.formats(count, "column format")?;
        fields.end()?;
        Ok(Self { format, columns })
    }
}

/// Types of a prepared statement's parameters, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterDescription<'a> {
    types: &'a [u8],
}

impl<'a> ParameterDescription<'a> {
    /// Reads a ParameterDescription body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::ParameterDescription, body);
        let count = fields.u16("number of parameters")?;
        let types = fields.take(usize::from(count) * 4, "parameter types")?;
        fields.end()?;
        Ok(Self { types })
    }

    /// OIDs of the types.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.types.as_chunks().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// A NOTIFY of some session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Process ID of the notifying session, as the server knows it.
    pub process_id: u32,
    /// The channel.
    pub channel: Text<'a>,
    /// What was sent with it; it may hold data.
    pub payload: Text<'a>,
}

impl<'a> Notification<'a> {
    /// Reads a NotificationResponse body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::NotificationResponse, body);
        let process_id = fields.u32("process ID")?;
        let channel = fields.text("channel")?;
        let payload = fields.text("payload")?;
        fields.end()?;
        Ok(Self { process_id, channel, payload })
    }
}

/// Which older version or fewer options the server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The version it goes on in. PostgreSQL sends the full number, 0x30002 for 3.2.
    pub version: ProtocolVersion,
    /// Protocol options it does not know.
    pub unknown_options: Vec<Text<'a>>,
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// Reads a NegotiateProtocolVersion body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(BackendTag::NegotiateProtocolVersion, body);
        let version = ProtocolVersion::from_number(fields.u32("version")?);
        let count = fields.u32("number of options")?;
        // An option takes a byte at least, so the vector grows no larger than the body allows, whatever the count says.
        let unknown_options = (0..count).map(|_| fields.text("option")).collect::<Result<Vec<_>, _>>()?;
        fields.end()?;
        Ok(Self { version, unknown_options })
    }
}

/// Reads a FunctionCallResponse: the result, NULL as `None`.
///
/// # Errors
/// [`DecodeError`] when the body is malformed.
pub fn decode_function_call_response(body: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut fields = fields(BackendTag::FunctionCallResponse, body);
    let result = fields.value("result")?;
    fields.end()?;
    Ok(result)
}

/// Reads all of a message's fields and forgets them: `Ok` when a decoder would accept the body.
///
/// # Errors
/// [`DecodeError`] when the body is malformed.
pub fn check(frame: Frame<'_, BackendTag>) -> Result<(), DecodeError> {
    let body = frame.body();
    match frame.tag {
        BackendTag::Authentication => Authentication::decode(body).map(drop),
        BackendTag::BackendKeyData => decode_backend_key_data(body).map(drop),
        BackendTag::CommandComplete => CommandComplete::decode(body).map(drop),
        BackendTag::CopyBothResponse | BackendTag::CopyInResponse | BackendTag::CopyOutResponse => {
            CopyResponse::decode(frame.tag, body).map(drop)
        }
        BackendTag::CopyData => Ok(()),
        BackendTag::DataRow => decode_data_row(body).map(drop),
        BackendTag::ErrorResponse => Report::decode_error(body).map(drop),
        BackendTag::FunctionCallResponse => decode_function_call_response(body).map(drop),
        BackendTag::NegotiateProtocolVersion => NegotiateProtocolVersion::decode(body).map(drop),
        BackendTag::NoticeResponse => Report::decode_notice(body).map(drop),
        BackendTag::NotificationResponse => Notification::decode(body).map(drop),
        BackendTag::ParameterDescription => ParameterDescription::decode(body).map(drop),
        BackendTag::ParameterStatus => ParameterStatus::decode(body).map(drop),
        BackendTag::ReadyForQuery => TransactionStatus::decode(body).map(drop),
        BackendTag::RowDescription => RowDescription::decode(body).map(drop),
        BackendTag::BindComplete
        | BackendTag::CloseComplete
        | BackendTag::CopyDone
        | BackendTag::EmptyQueryResponse
        | BackendTag::NoData
        | BackendTag::ParseComplete
        | BackendTag::PortalSuspended => fields(frame.tag, body).end(),
    }
}
