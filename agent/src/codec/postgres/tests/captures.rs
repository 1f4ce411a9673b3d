//! Captured sessions: every way of cutting them gives the same messages, and what we encode is what was there.

use bytes::BytesMut;

use super::{CAPTURES, Random, Seen, capture, message, read};
use crate::codec::postgres::backend::{
    Authentication, CommandComplete, CopyResponse, NegotiateProtocolVersion, Notification,
    ParameterDescription, ParameterStatus, RowDescription, TransactionStatus, decode_backend_key_data,
    decode_data_row, decode_function_call_response,
};
use crate::codec::postgres::encode::{backend as say, frontend as ask};
use crate::codec::postgres::fields::{Format, Text};
use crate::codec::postgres::frontend::{
    Bind, CopyFail, Execute, FunctionCall, Object, Parse, PasswordMessage, Query, SaslInitialResponse,
};
use crate::codec::postgres::report::Report;
use crate::codec::postgres::startup::ProtocolVersion;
use crate::codec::postgres::{BackendTag, Frame, FrontendTag, Tag, backend, frontend, sqlstate};

fn client(name: &str) -> Vec<Seen<FrontendTag>> {
    read(capture(name).client_messages(), []).unwrap()
}

fn server(name: &str) -> Vec<Seen<BackendTag>> {
    read(capture(name).server_messages(), []).unwrap()
}

fn bodies<T: Tag>(seen: &[Seen<T>], tag: T) -> Vec<&[u8]> {
    seen.iter().filter(|seen| seen.tag == tag).map(|seen| seen.body.as_slice()).collect()
}

/// Every way of cutting must give what the whole gives.
fn every_cut<T: Tag>(name: &str, stream: &[u8]) {
    let whole = read::<T>(stream, []).unwrap();
    let rebuilt = whole.iter().flat_map(|seen| message(seen.tag.byte(), &seen.body)).collect::<Vec<_>>();
    assert!(rebuilt == stream, "{name}: the messages put together are the stream");
    assert!(read::<T>(stream, 0..stream.len()).unwrap() == whole, "{name}: byte by byte");
    for cut in 0..=stream.len() {
        if stream.len() < 2_000 || cut % 7 == 0 {
            assert!(read::<T>(stream, [cut]).unwrap() == whole, "{name}: cut at {cut}");
        }
    }
    for seed in 0..50 {
        let cuts = Random::new(seed).cuts(stream.len());
        assert!(read::<T>(stream, cuts).unwrap() == whole, "{name}: cut by seed {seed}");
    }
}

#[test]
fn any_cut_gives_the_same_messages() {
    for capture in CAPTURES {
        every_cut::<FrontendTag>(capture.name, capture.client_messages());
        every_cut::<BackendTag>(capture.name, capture.server_messages());
    }
}

#[test]
fn every_captured_message_is_accepted() {
    for capture in CAPTURES {
        for seen in client(capture.name) {
            let bytes = message(seen.tag.byte(), &seen.body);
            assert_eq!(frontend::check(Frame { tag: seen.tag, bytes: &bytes }), Ok(()), "{}", capture.name);
        }
        for seen in server(capture.name) {
            let bytes = message(seen.tag.byte(), &seen.body);
            assert_eq!(backend::check(Frame { tag: seen.tag, bytes: &bytes }), Ok(()), "{}", capture.name);
        }
    }
}

/// Writes a client's message anew from its decoded fields.
fn reencode_client(seen: &Seen<FrontendTag>, first_password: bool, out: &mut BytesMut) {
    let body = seen.body.as_slice();
    match seen.tag {
        FrontendTag::Bind => {
            let bind = Bind::decode(body).unwrap();
            let parameter_formats = bind.parameter_formats.iter().collect::<Vec<_>>();
            let result_formats = bind.result_formats.iter().collect::<Vec<_>>();
            ask::bind(out, bind.portal, bind.statement, &parameter_formats, bind.parameters, &result_formats)
                .unwrap();
        }
        FrontendTag::Close => ask::close(out, Object::decode_close(body).unwrap()).unwrap(),
        FrontendTag::CopyDone => ask::copy_done(out),
        FrontendTag::CopyFail => ask::copy_fail(out, CopyFail::decode(body).unwrap().reason).unwrap(),
        FrontendTag::Describe => ask::describe(out, Object::decode_describe(body).unwrap()).unwrap(),
        FrontendTag::Execute => {
            let execute = Execute::decode(body).unwrap();
            ask::execute(out, execute.portal, execute.max_rows).unwrap();
        }
        FrontendTag::Flush => ask::flush(out),
        FrontendTag::Parse => {
            let parse = Parse::decode(body).unwrap();
            ask::parse(out, parse.name, parse.text, parse.parameter_types()).unwrap();
        }
        FrontendTag::Password if first_password => match SaslInitialResponse::decode(body) {
            Ok(first) => ask::sasl_initial_response(out, first.mechanism, first.data).unwrap(),
            Err(_) => ask::password(out, PasswordMessage::decode(body).unwrap().password).unwrap(),
        },
        FrontendTag::Password => ask::sasl_response(out, body).unwrap(),
        FrontendTag::Query => ask::query(out, Query::decode(body).unwrap().text).unwrap(),
        FrontendTag::Sync => ask::sync(out),
        FrontendTag::Terminate => ask::terminate(out),
        // Nothing of ours says these two.
        FrontendTag::CopyData | FrontendTag::FunctionCall => {
            out.extend_from_slice(&message(seen.tag.byte(), body));
        }
    }
}

#[test]
fn client_messages_encode_to_what_was_captured() {
    for capture in CAPTURES {
        let mut first_password = true;
        for seen in client(capture.name) {
            let mut out = BytesMut::new();
            reencode_client(&seen, first_password, &mut out);
            assert!(out == message(seen.tag.byte(), &seen.body), "{}: {:?}", capture.name, seen.tag);
            first_password &= seen.tag != FrontendTag::Password;
        }
    }
}

/// Writes a server's message anew from its decoded fields; `false` when we never say such a one.
fn reencode_server(seen: &Seen<BackendTag>, out: &mut BytesMut) -> bool {
    let body = seen.body.as_slice();
    match seen.tag {
        BackendTag::Authentication => match Authentication::decode(body).unwrap() {
            Authentication::Ok => say::authentication_ok(out),
            Authentication::Sasl(mechanisms) => {
                let names = mechanisms.iter().map(|name| Text::new(name).unwrap()).collect::<Vec<_>>();
                say::authentication_sasl(out, &names).unwrap();
            }
            Authentication::SaslContinue(data) => say::authentication_sasl_continue(out, data).unwrap(),
            Authentication::SaslFinal(data) => say::authentication_sasl_final(out, data).unwrap(),
            Authentication::KerberosV5
            | Authentication::CleartextPassword
            | Authentication::Md5Password { .. }
            | Authentication::Gss
            | Authentication::GssContinue(_)
            | Authentication::Sspi => return false,
        },
        BackendTag::BackendKeyData => {
            say::backend_key_data(out, decode_backend_key_data(body).unwrap()).unwrap();
        }
        BackendTag::BindComplete => say::bind_complete(out),
        BackendTag::CloseComplete => say::close_complete(out),
        BackendTag::CommandComplete => {
            say::command_complete(out, CommandComplete::decode(body).unwrap().tag).unwrap();
        }
        BackendTag::DataRow => say::data_row(out, decode_data_row(body).unwrap()).unwrap(),
        BackendTag::EmptyQueryResponse => say::empty_query_response(out),
        BackendTag::NegotiateProtocolVersion => {
            let offer = NegotiateProtocolVersion::decode(body).unwrap();
            say::negotiate_protocol_version(out, offer.version, &offer.unknown_options).unwrap();
        }
        BackendTag::NoData => say::no_data(out),
        BackendTag::ParameterDescription => {
            let types = ParameterDescription::decode(body).unwrap();
            say::parameter_description(out, types.iter()).unwrap();
        }
        BackendTag::ParameterStatus => {
            let status = ParameterStatus::decode(body).unwrap();
            say::parameter_status(out, status.name, status.value).unwrap();
        }
        BackendTag::ParseComplete => say::parse_complete(out),
        BackendTag::PortalSuspended => say::portal_suspended(out),
        BackendTag::ReadyForQuery => say::ready_for_query(out, TransactionStatus::decode(body).unwrap()),
        BackendTag::RowDescription => {
            say::row_description(out, RowDescription::decode(body).unwrap()).unwrap();
        }
        BackendTag::CopyBothResponse
        | BackendTag::CopyData
        | BackendTag::CopyDone
        | BackendTag::CopyInResponse
        | BackendTag::CopyOutResponse
        | BackendTag::ErrorResponse
        | BackendTag::FunctionCallResponse
        | BackendTag::NoticeResponse
        | BackendTag::NotificationResponse => return false,
    }
    true
}

#[test]
fn server_messages_encode_to_what_was_captured() {
    let mut encoded = 0;
    for capture in CAPTURES {
        for seen in server(capture.name) {
            let mut out = BytesMut::new();
            if reencode_server(&seen, &mut out) {
                assert!(out == message(seen.tag.byte(), &seen.body), "{}: {:?}", capture.name, seen.tag);
                encoded += 1;
            }
        }
    }
    assert!(encoded > 400, "only {encoded} messages were compared");
}

#[test]
fn psql_session_reads_as_it_was() {
    let seen = server("simple");
    let tags = bodies(&seen, BackendTag::CommandComplete)
        .iter()
        .map(|body| CommandComplete::decode(body).unwrap())
        .map(|complete| (complete.tag.to_str().unwrap(), complete.rows()))
        .collect::<Vec<_>>();
    assert_eq!(
        tags,
        [
            ("SELECT 5", Some(5)),
            ("SELECT 1", Some(1)),
            ("INSERT 0 2", Some(2)),
            ("UPDATE 1", Some(1)),
            ("DELETE 2", Some(2)),
            ("BEGIN", None),
            ("ROLLBACK", None),
            ("SELECT 1", Some(1)),
            ("SELECT 1", Some(1)),
            ("SELECT 1", Some(1)),
            ("DO", None),
            ("LISTEN", None),
            ("NOTIFY", None),
            ("SELECT 1", Some(1)),
            ("SET", None),
            ("SELECT 1", Some(1)),
        ]
    );
    let errors = bodies(&seen, BackendTag::ErrorResponse);
    let codes = errors.iter().map(|body| Report::decode_error(body).unwrap().sqlstate().unwrap().to_string());
    assert_eq!(codes.collect::<Vec<_>>(), ["22012", "25P02"]);
    let notices = bodies(&seen, BackendTag::NoticeResponse);
    let notices = notices.iter().map(|body| Report::decode_notice(body).unwrap()).collect::<Vec<_>>();
    assert_eq!(notices[0].get(Report::MESSAGE).and_then(Text::to_str), Some("hello 1"));
    assert_eq!(notices[1].sqlstate(), Some(sqlstate::WARNING));
    assert_eq!(notices[1].get(Report::DETAIL).and_then(Text::to_str), Some("more"));
    assert_eq!(notices[1].get(Report::HINT).and_then(Text::to_str), Some("do"));
    let notified = Notification::decode(bodies(&seen, BackendTag::NotificationResponse)[0]).unwrap();
    assert_eq!((notified.channel.as_bytes(), notified.payload.as_bytes()), (&b"ch"[..], &b"payload"[..]));
    let status = seen.iter().filter(|seen| seen.tag == BackendTag::ReadyForQuery);
    let status = status.map(|seen| TransactionStatus::decode(&seen.body).unwrap()).collect::<Vec<_>>();
    assert!(
        status.contains(&TransactionStatus::Failed) && status.contains(&TransactionStatus::InTransaction)
    );
}

#[test]
fn rows_and_their_columns_read_as_they_were() {
    let seen = server("simple");
    let columns = RowDescription::decode(bodies(&seen, BackendTag::RowDescription)[0]).unwrap();
    assert_eq!(columns.len(), 5);
    let columns = columns.collect::<Vec<_>>();
    let names = columns.iter().map(|column| column.name.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(names, ["id", "name", "ssn", "born", "note"]);
    let attributes = columns.iter().map(|column| column.attribute).collect::<Vec<_>>();
    assert_eq!(attributes, [1, 2, 3, 4, 5]);
    let types = columns.iter().map(|column| column.type_oid).collect::<Vec<_>>();
    assert_eq!(types, [23, 25, 25, 1082, 17]);
    assert!(
        columns.iter().all(|column| column.table_oid == columns[0].table_oid && column.table_oid > 16_000)
    );
    let third = decode_data_row(bodies(&seen, BackendTag::DataRow)[2]).unwrap().collect::<Vec<_>>();
    assert_eq!(third[1], Some(&b"name 3"[..]));
    assert_eq!(third[4], None, "NULL is not an empty value");
    let literals = decode_data_row(bodies(&seen, BackendTag::DataRow)[5]).unwrap().collect::<Vec<_>>();
    assert_eq!(literals, [Some(&b"1"[..]), None, Some(&b""[..]), Some("grüße".as_bytes())]);
}

#[test]
fn extended_queries_read_as_they_were() {
    let asked = client("raw");
    let call = FunctionCall::decode(bodies(&asked, FrontendTag::FunctionCall)[0]).unwrap();
    assert_eq!((call.function, call.arguments.collect::<Vec<_>>()), (1397, vec![Some(&b"-5"[..])]));
    let parse = Parse::decode(bodies(&asked, FrontendTag::Parse)[0]).unwrap();
    assert_eq!(parse.name.to_str(), Some("st"));
    assert_eq!(parse.sql(), Ok("SELECT id, name FROM customers WHERE id <= $1 ORDER BY id"));
    assert_eq!(parse.parameter_types().collect::<Vec<_>>(), [23]);
    let bind = Bind::decode(bodies(&asked, FrontendTag::Bind)[0]).unwrap();
    assert_eq!((bind.portal.as_bytes(), bind.statement.as_bytes()), (&b"po"[..], &b"st"[..]));
    assert_eq!(bind.parameter_formats.get(0), Some(Format::Binary));
    assert_eq!(bind.parameters.collect::<Vec<_>>(), [Some(&[0, 0, 0, 7][..])]);
    assert_eq!(bind.result_formats.get(9), Some(Format::Binary), "one code stands for all columns");
    let execute = Execute::decode(bodies(&asked, FrontendTag::Execute)[0]).unwrap();
    assert_eq!((execute.portal.as_bytes(), execute.max_rows), (&b"po"[..], 3));
    let close = bodies(&asked, FrontendTag::Close);
    assert_eq!(Object::decode_close(close[0]), Ok(Object::Portal(Text::new(b"po").unwrap())));
    assert_eq!(Object::decode_close(close[1]), Ok(Object::Statement(Text::new(b"st").unwrap())));
    assert_eq!(
        CopyFail::decode(bodies(&asked, FrontendTag::CopyFail)[0]).unwrap().reason.as_bytes(),
        b"no more"
    );

    let said = server("raw");
    let result = decode_function_call_response(bodies(&said, BackendTag::FunctionCallResponse)[0]);
    assert_eq!(result, Ok(Some(&b"5"[..])));
    assert_eq!(bodies(&said, BackendTag::PortalSuspended).len(), 2);
    assert_eq!(bodies(&said, BackendTag::CloseComplete).len(), 2);
    assert_eq!(bodies(&said, BackendTag::EmptyQueryResponse).len(), 2);
    assert_eq!(bodies(&said, BackendTag::NoData).len(), 1);
    let types = ParameterDescription::decode(bodies(&said, BackendTag::ParameterDescription)[0]).unwrap();
    assert_eq!(types.iter().collect::<Vec<_>>(), [23]);
}

#[test]
fn copies_read_as_they_were() {
    let said = server("copy");
    let out = bodies(&said, BackendTag::CopyOutResponse);
    let text = CopyResponse::decode(BackendTag::CopyOutResponse, out[0]).unwrap();
    assert_eq!((text.format, text.columns.len()), (Format::Text, 3));
    let binary = CopyResponse::decode(BackendTag::CopyOutResponse, out[1]).unwrap();
    assert_eq!((binary.format, binary.columns.get(1)), (Format::Binary, Some(Format::Binary)));
    assert_eq!(bodies(&said, BackendTag::CopyInResponse).len(), 4);
    assert_eq!(bodies(&said, BackendTag::CopyDone).len(), 3);
    let both = server("walsender");
    let both = bodies(&both, BackendTag::CopyBothResponse);
    assert_eq!(CopyResponse::decode(BackendTag::CopyBothResponse, both[0]).unwrap().columns.len(), 0);
}

#[test]
fn logins_read_as_they_were() {
    let steps = |name| {
        bodies(&server(name), BackendTag::Authentication)
            .iter()
            .map(|body| Authentication::decode(body).unwrap().name())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps("asyncpg"), ["Sasl", "SaslContinue", "SaslFinal", "Ok"]);
    assert_eq!(steps("wrongpw"), ["Sasl", "SaslContinue"]);
    assert_eq!(steps("md5"), ["Md5Password", "Ok"]);
    assert_eq!(steps("cleartext"), ["CleartextPassword", "Ok"]);
    let refused = server("wrongpw");
    let refused = Report::decode_error(bodies(&refused, BackendTag::ErrorResponse)[0]).unwrap();
    assert_eq!(refused.sqlstate(), Some(sqlstate::INVALID_PASSWORD));
    let asked = client("asyncpg");
    let first = SaslInitialResponse::decode(bodies(&asked, FrontendTag::Password)[0]).unwrap();
    assert_eq!(first.mechanism.as_bytes(), b"SCRAM-SHA-256");
    assert!(first.data.unwrap().starts_with(b"n,,"));
    let asked = client("cleartext");
    let given = PasswordMessage::decode(bodies(&asked, FrontendTag::Password)[0]).unwrap();
    assert_eq!(given.password.as_bytes(), b"throwaway");
    assert!(!format!("{given:?} {first:?}").contains("throwaway"));
}

#[test]
fn keys_are_of_their_protocols_length() {
    for (name, length) in [("cancel", 4), ("cancel18", 32)] {
        let said = server(name);
        let key = decode_backend_key_data(bodies(&said, BackendTag::BackendKeyData)[0]).unwrap();
        assert_eq!(key.secret_key.len(), length);
    }
}

#[test]
fn a_server_offers_the_version_we_would_offer() {
    let said = server("grease");
    let offer = NegotiateProtocolVersion::decode(bodies(&said, BackendTag::NegotiateProtocolVersion)[0]);
    let offer = offer.unwrap();
    assert_eq!(offer.version, ProtocolVersion::V3_2);
    let names = offer.unknown_options.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(names, ["_pq_.grease", "_pq_.other"]);
}
