//! What clients say: a borrowed decoder for each frontend message that has fields.
//!
//! Every decoder takes a body without its header, reads all of it and refuses what is left over.

use std::fmt;

use super::FrontendTag;
use super::error::{DecodeError, Message};
use super::fields::{Fields, Format, Formats, Text, Values};
use super::frame::Frame;

fn fields(tag: FrontendTag, body: &[u8]) -> Fields<'_> {
    Fields::new(Message::Frontend(tag), body)
}

/// SQL text, run at once; it may hold several statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text.
    pub text: Text<'a>,
}

impl<'a> Query<'a> {
    /// Reads a Query's body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Query, body);
        let text = fields.text("text")?;
        fields.end()?;
        Ok(Self { text })
    }

    /// The text as UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`] when it is not.
    pub fn sql(&self) -> Result<&'a str, DecodeError> {
        self.text.utf8(Message::Frontend(FrontendTag::Query), "text")
    }
}

/// Prepares a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name to prepare under; empty for the unnamed statement.
    pub name: Text<'a>,
    /// The statement's text, at most one statement (the server refuses more).
    pub text: Text<'a>,
    types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a Parse's body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Parse, body);
        let name = fields.text("statement name")?;
        let text = fields.text("text")?;
        let count = fields.u16("number of parameter types")?;
        let types = fields.take(usize::from(count) * 4, "parameter types")?;
        fields.end()?;
        Ok(Self { name, text, types })
    }

    /// The text as UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`] when it is not.
    pub fn sql(&self) -> Result<&'a str, DecodeError> {
        self.text.utf8(Message::Frontend(FrontendTag::Parse), "text")
    }

    /// OIDs of the parameter types given in advance; 0 leaves one to the server.
    pub fn parameter_types(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.types.as_chunks().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

impl fmt::Debug for Parse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parse").field("name", &self.name).field("text", &self.text).finish_non_exhaustive()
    }
}

/// What a Bind says before its parameters. Of a Bind too long to hold it is all that a verdict can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    /// Portal to make; empty for the unnamed one.
    pub portal: Text<'a>,
    /// Prepared statement to run; empty for the unnamed one.
    pub statement: Text<'a>,
    /// Formats of the parameters.
    pub parameter_formats: Formats<'a>,
    /// How many parameters follow.
    pub parameters: u16,
}

impl<'a> BindHead<'a> {
    /// The head at the start of a Bind's body and its length in bytes; `None` when `body` ends inside it.
    ///
    /// A head has two names and at most 65,535 format codes, so one that is longer than
    /// [`WHOLE_BODY_BYTES_MAX`](super::tag::WHOLE_BODY_BYTES_MAX) is not worth waiting for: the caller refuses the message then.
    ///
    /// # Errors
    /// [`DecodeError::Value`] when a format code or the number of codes is impossible.
    pub fn decode_prefix(body: &'a [u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let mut fields = fields(FrontendTag::Bind, body);
        match Self::read(&mut fields) {
            Ok(head) => Ok(Some((head, body.len() - fields.rest().len()))),
            Err(DecodeError::Truncated { .. } | DecodeError::Unterminated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let portal = fields.text("portal name")?;
        let statement = fields.text("statement name")?;
        let formats = fields.u16("number of parameter formats")?;
        let parameter_formats = fields.formats(formats, "parameter format")?;
        let parameters = fields.u16("number of parameters")?;
        if formats > 1 && formats != parameters {
            return Err(fields.impossible("number of parameter formats", formats));
        }
        Ok(Self { portal, statement, parameter_formats, parameters })
    }
}

/// Binds parameters to a prepared statement, making a portal.
#[derive(Clone, Debug)]
pub struct Bind<'a> {
    /// Portal to make; empty for the unnamed one.
    pub portal: Text<'a>,
    /// Prepared statement to run; empty for the unnamed one.
    pub statement: Text<'a>,
    /// Formats of the parameters.
    pub parameter_formats: Formats<'a>,
    /// Parameters in order; `None` is NULL.
    pub parameters: Values<'a>,
    /// Formats asked for the result's columns.
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    /// Reads a Bind's body. Longer ones than are taken in one piece go through [`super::split::BindSplitter`].
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Bind, body);
        let BindHead { portal, statement, parameter_formats, parameters: count } =
            BindHead::read(&mut fields)?;
        let parameters = Values::read(&mut fields, count, "parameter")?;
        let results = fields.u16("number of result formats")?;
        let result_formats = fields.formats(results, "result format")?;
        fields.end()?;
        Ok(Self { portal, statement, parameter_formats, parameters, result_formats })
    }
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// A portal (`P`); empty for the unnamed one.
    Portal(Text<'a>),
    /// A prepared statement (`S`); empty for the unnamed one.
    Statement(Text<'a>),
}

impl<'a> Object<'a> {
    /// Reads the body of a Describe.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode_describe(body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(fields(FrontendTag::Describe, body))
    }

    /// Reads the body of a Close.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode_close(body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(fields(FrontendTag::Close, body))
    }

    fn read(mut fields: Fields<'a>) -> Result<Self, DecodeError> {
        let kind = fields.u8("kind")?;
        let name = fields.text("name")?;
        fields.end()?;
        match kind {
            b'P' => Ok(Self::Portal(name)),
            b'S' => Ok(Self::Statement(name)),
            other => Err(fields.impossible("kind", other)),
        }
    }
}

/// Runs a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal; empty for the unnamed one.
    pub portal: Text<'a>,
    /// Rows after which to suspend; 0 (and, as the server has it, anything negative) means all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads an Execute's body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Execute, body);
        let portal = fields.text("portal name")?;
        let max_rows = fields.i32("row limit")?;
        fields.end()?;
        Ok(Self { portal, max_rows })
    }
}

/// Calls a function by OID. There is no SQL to judge; the function has to be looked up.
#[derive(Clone, Debug)]
pub struct FunctionCall<'a> {
    /// OID of the function.
    pub function: u32,
    /// Formats of the arguments.
    pub argument_formats: Formats<'a>,
    /// Arguments in order; `None` is NULL.
    pub arguments: Values<'a>,
    /// Format asked for the result.
    pub result_format: Format,
}

impl<'a> FunctionCall<'a> {
    /// Reads a FunctionCall's body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::FunctionCall, body);
        let function = fields.u32("function")?;
        let formats = fields.u16("number of argument formats")?;
        let argument_formats = fields.formats(formats, "argument format")?;
        let count = fields.u16("number of arguments")?;
        if formats > 1 && formats != count {
            return Err(fields.impossible("number of argument formats", formats));
        }
        let arguments = Values::read(&mut fields, count, "argument")?;
        let result_format = fields.format("result format")?;
        fields.end()?;
        Ok(Self { function, argument_formats, arguments, result_format })
    }
}

/// The client gives up a COPY FROM STDIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFail<'a> {
    /// Why, in the client's words.
    pub reason: Text<'a>,
}

impl<'a> CopyFail<'a> {
    /// Reads a CopyFail's body.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::CopyFail, body);
        let reason = fields.text("reason")?;
        fields.end()?;
        Ok(Self { reason })
    }
}

/// The answer to a cleartext or MD5 password request: the password or its digest. A secret either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordMessage<'a> {
    /// The answer. Never format its bytes.
    pub password: Text<'a>,
}

impl<'a> PasswordMessage<'a> {
    /// Reads a Password body as the answer to a password request.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Password, body);
        let password = fields.text("password")?;
        fields.end()?;
        Ok(Self { password })
    }
}

/// The first answer to a SASL request. Later answers are the body as it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism the client chose.
    pub mechanism: Text<'a>,
    /// The mechanism's first message, when it has one.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads a Password body as the first answer to a SASL request.
    ///
    /// # Errors
    /// [`DecodeError`] when the body is malformed.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = fields(FrontendTag::Password, body);
        let mechanism = fields.text("mechanism")?;
        let data = fields.value("initial response")?;
        fields.end()?;
        Ok(Self { mechanism, data })
    }
}

impl fmt::Debug for SaslInitialResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaslInitialResponse").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// Reads all of a message's fields and forgets them: `Ok` when a decoder would accept the body.
///
/// A Password body is accepted as it is, since only the request it answers tells what it holds.
///
/// # Errors
/// [`DecodeError`] when the body is malformed.
pub fn check(frame: Frame<'_, FrontendTag>) -> Result<(), DecodeError> {
    let body = frame.body();
    match frame.tag {
        FrontendTag::Bind => Bind::decode(body).map(drop),
        FrontendTag::Close => Object::decode_close(body).map(drop),
        FrontendTag::CopyFail => CopyFail::decode(body).map(drop),
        FrontendTag::Describe => Object::decode_describe(body).map(drop),
        FrontendTag::Execute => Execute::decode(body).map(drop),
        FrontendTag::FunctionCall => FunctionCall::decode(body).map(drop),
        FrontendTag::Parse => Parse::decode(body).map(drop),
        FrontendTag::Query => Query::decode(body).map(drop),
        FrontendTag::CopyData | FrontendTag::Password => Ok(()),
        FrontendTag::CopyDone | FrontendTag::Flush | FrontendTag::Sync | FrontendTag::Terminate => {
            fields(frame.tag, body).end()
        }
    }
}
