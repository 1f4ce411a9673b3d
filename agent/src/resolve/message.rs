//! DNS messages of agents: one question in, one answer out (RFC 1035 section 4, EDNS of RFC 6891).

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use super::upstream::plain;

/// Longest question that is read, in bytes. Those of stub resolvers are below 512.
pub(super) const QUESTION_BYTES_MAX: usize = 4096;

/// Longest answer over UDP, in bytes, for clients that say they take more than the 512 of RFC 1035 section 4.2.1.
const PAYLOAD_BYTES_MAX: u16 = 1232;

/// Length of a message's header.
const HEADER_BYTES: usize = 12;

/// Code of the option with an extended error (RFC 8914 section 2), and the errors `Prohibited` and `No Reachable
/// Authority` (sections 4.19 and 4.23).
const EXTENDED_ERROR: u16 = 15;
const PROHIBITED: u16 = 18;
const UNREACHABLE: u16 = 22;

/// What an agent asks.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Lower case, without the final dot; what is not a plain character is escaped (RFC 1035 section 5.1).
    pub(super) name: String,
    /// Type of the records wanted.
    pub(super) kind: RecordType,
    id: u16,
    recursion_desired: bool,
    query: Query,
    /// Bytes the client takes in one datagram, when it speaks EDNS.
    payload_bytes: Option<u16>,
}

/// What is said to an agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<RData>,
    /// Seconds that the answers hold.
    pub(super) time_to_live: u32,
    /// Why it is refused or failed, for clients that show it.
    pub(super) reason: Option<String>,
}

impl Reply {
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), time_to_live: 0, reason: None }
    }

    /// `code` is REFUSED, or NXDOMAIN for clients that then try another name.
    pub(super) fn refused(code: ResponseCode, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::code(code) }
    }
}

/// What a received message is.
#[derive(Debug)]
pub(super) enum Received {
    /// A question, to be answered.
    Question(Box<Question>),
    /// What is answered without a look at policy, and the answer.
    Answered(Vec<u8>),
    /// Nothing that deserves an answer.
    Noise,
}

/// A message's id, without reading it.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Reads a message of an agent.
pub(super) fn read(bytes: &[u8]) -> Received {
    let Ok(message) = Message::from_vec(bytes) else { return unreadable(bytes) };
    if message.metadata.message_type != MessageType::Query {
        return Received::Noise;
    }
    let refused = |code| {
        let mut answer = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
        answer.metadata.recursion_desired = message.metadata.recursion_desired;
        if message.edns.is_some() {
            answer.set_edns(own_edns());
        }
        answer.to_vec().map_or(Received::Noise, Received::Answered)
    };
    if message.metadata.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    if message.version() > 0 {
        return refused(ResponseCode::BADVERS);
    }
    let [query] = message.queries.as_slice() else { return refused(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return refused(ResponseCode::Refused);
    }
    Received::Question(Box::new(Question {
        name: plain(query.name()),
        kind: query.query_type(),
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        query: query.clone(),
        payload_bytes: message.edns.as_ref().map(|_| message.max_payload().min(PAYLOAD_BYTES_MAX)),
    }))
}

/// With a whole header that is a query's, its sender is told.
fn unreadable(bytes: &[u8]) -> Received {
    let Some(id) = id(bytes).filter(|_| bytes.len() >= HEADER_BYTES) else { return Received::Noise };
    if bytes.get(2).is_some_and(|flags| flags & 0x80 != 0) {
        return Received::Noise;
    }
    let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    answer.to_vec().map_or(Received::Noise, Received::Answered)
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_BYTES_MAX);
    edns
}

impl Question {
    /// The question as asked, with the case its client chose.
    pub(super) fn query(&self) -> &Query {
        &self.query
    }

    /// The answer as bytes for a datagram: with the truncation flag and no records when they do not fit.
    pub(super) fn datagram(&self, reply: &Reply) -> Option<Vec<u8>> {
        let room = self.payload_bytes.map_or(512, usize::from);
        let whole = self.encode(reply, false)?;
        if whole.len() <= room { Some(whole) } else { self.encode(&Reply::code(reply.code), true) }
    }

    /// The answer as bytes for a stream, without its length.
    pub(super) fn segment(&self, reply: &Reply) -> Option<Vec<u8>> {
        self.encode(reply, false).filter(|bytes| u16::try_from(bytes.len()).is_ok())
    }

    fn encode(&self, reply: &Reply, truncated: bool) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = reply.code;
        message.metadata.truncation = truncated;
        message.add_query(self.query.clone());
        let owner = self.query.name();
        let record = |data: &RData| Record::from_rdata(owner.clone(), reply.time_to_live, data.clone());
        message.add_answers(reply.answers.iter().map(record));
        if self.payload_bytes.is_some() {
            let mut edns = own_edns();
            if let Some(reason) = &reply.reason {
                let failed = reply.code == ResponseCode::ServFail;
                let code = if failed { UNREACHABLE } else { PROHIBITED };
                let error = [&code.to_be_bytes(), reason.as_bytes()].concat();
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, error));
            }
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::A;
    use std::net::Ipv4Addr;

    use super::*;

    fn asking(name: &str, edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message
    }

    fn question(message: &Message) -> Question {
        match read(&message.to_vec().unwrap()) {
            Received::Question(question) => *question,
            other @ (Received::Answered(_) | Received::Noise) => panic!("{other:?}"),
        }
    }

    fn addresses(count: u8) -> Reply {
        let answers = (0..count).map(|last| RData::A(A(Ipv4Addr::new(127, 0, 0, last)))).collect();
        Reply { answers, time_to_live: 7, ..Reply::code(ResponseCode::NoError) }
    }

    #[test]
    fn an_answer_repeats_the_question_as_it_was_asked() {
        let asked = asking("API.shop.Test.", None);
        let question = question(&asked);
        assert_eq!((question.name.as_str(), question.kind), ("api.shop.test", RecordType::A));
        let answer = Message::from_vec(&question.datagram(&addresses(2)).unwrap()).unwrap();
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert!(!answer.metadata.truncation && !answer.metadata.authoritative && answer.edns.is_none());
        assert_eq!(answer.queries[0].name().to_ascii(), "API.shop.Test.");
        assert_eq!(answer.answers.len(), 2);
        assert_eq!(
            (answer.answers[0].name.to_ascii().as_str(), answer.answers[0].ttl),
            ("API.shop.Test.", 7)
        );
    }

    #[test]
    fn what_does_not_fit_is_truncated_by_what_the_client_takes() {
        for (edns, count, fits) in [
            (None, 20, true),
            (None, 40, false),
            (Some(512), 40, false),
            (Some(1232), 40, true),
            (Some(0), 40, false),
            (Some(u16::MAX), 90, false),
        ] {
            let question = question(&asking("a.test.", edns));
            let bytes = question.datagram(&addresses(count)).unwrap();
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!(answer.metadata.truncation, !fits, "{edns:?} {count}");
            assert_eq!(answer.answers.len(), if fits { usize::from(count) } else { 0 });
            assert!(bytes.len() <= usize::from(PAYLOAD_BYTES_MAX));
            let whole = Message::from_vec(&question.segment(&addresses(count)).unwrap()).unwrap();
            assert_eq!((whole.answers.len(), whole.metadata.truncation), (usize::from(count), false));
        }
    }

    #[test]
    fn a_refusal_says_why_to_who_speaks_edns() {
        let reply = Reply::refused(ResponseCode::Refused, "no connection names it");
        let answer = question(&asking("a.test.", Some(1232))).datagram(&reply).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        let EdnsOption::Unknown(15, error) =
            answer.edns.as_ref().unwrap().option(EXTENDED_ERROR.into()).unwrap()
        else {
            panic!("no extended error")
        };
        assert_eq!(error, b"\0\x12no connection names it");
        let plain = question(&asking("a.test.", None)).datagram(&reply).unwrap();
        assert!(Message::from_vec(&plain).unwrap().edns.is_none());
    }

    #[test]
    fn what_is_no_question_is_told_so_or_ignored() {
        let code = |message: &Message| match read(&message.to_vec().unwrap()) {
            Received::Answered(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other @ (Received::Question(_) | Received::Noise) => panic!("{other:?}"),
        };
        let mut notify = asking("a.test.", None);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let mut two = asking("a.test.", None);
        two.add_query(two.queries[0].clone());
        assert_eq!(code(&two), ResponseCode::FormErr);
        let mut version = asking("a.test.", Some(1232));
        version.edns.as_mut().unwrap().set_version(1);
        assert_eq!(u16::from(code(&version)), 16, "BADVERS (RFC 6891 section 9)");
        let mut chaos = asking("version.bind.", None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);

        let mut answer = asking("a.test.", None);
        answer.metadata.message_type = MessageType::Response;
        assert!(matches!(read(&answer.to_vec().unwrap()), Received::Noise));
        let whole = asking("a.test.", None).to_vec().unwrap();
        for end in 0..whole.len() {
            let read = read(&whole[..end]);
            assert_eq!(matches!(read, Received::Answered(_)), end >= HEADER_BYTES, "{end}: {read:?}");
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 20).unwrap()
        };
        let whole = asking("api.shop.test.", Some(1232)).to_vec().unwrap();
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = random().to_le_bytes()[0];
            }
            bytes.truncate(random() % (bytes.len() + 1));
            if let Received::Question(question) = read(&bytes) {
                assert!(question.datagram(&Reply::refused(ResponseCode::Refused, "x")).is_some());
            }
        }
    }
}
