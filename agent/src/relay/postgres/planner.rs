//! Whoever answers what the session cannot: the server's planner, a human, and the catalogue when the schema changed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::calls::Calls;
use super::conversation::{Answer, Conversation, Message, Question};
use super::masking::{Masking, Rules};
use super::masks::MaskCache;
use crate::codec::postgres::frame::HEADER_BYTES;
use crate::codec::postgres::frontend::Bind;
use crate::gate::Admission;
use crate::policy::Policy;
use crate::policy::rule::PolicyVersion;
use crate::upstream::side::CATALOG_AGE_MAX;
use crate::upstream::{PlanRequest, Side, UpstreamError};

/// Why masks cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaskingError {
    /// The server's catalogue cannot be read.
    #[error("cannot read the database's catalogue, which the policy's masks, views or functions need")]
    Catalogue(#[from] UpstreamError),
    /// The detectors cannot be built.
    #[error("cannot build the policy's detectors: {0}")]
    Detectors(String),
}

/// The session's connections to its helpers.
pub(crate) struct Planner {
    side: Side,
    masks: Arc<MaskCache>,
    /// What the session's masks were made from.
    from: From,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct From {
    policy: PolicyVersion,
    /// Changes of the schema that sessions had reported.
    changes: u64,
    at: Instant,
}

impl From {
    fn now(side: &Side, policy: &Policy) -> Self {
        Self { policy: policy.version.clone(), changes: side.changes(), at: Instant::now() }
    }
}

/// The masks, and what calls do, once the catalogue has been read.
type Renewed = Pin<Box<dyn Future<Output = Result<(Masking, Calls), MaskingError>> + Send>>;

impl Planner {
    pub(crate) fn new(side: Side, policy: &Policy, masks: Arc<MaskCache>) -> Self {
        Self { from: From::now(&side, policy), side, masks }
    }

    /// The masks and the judge of calls by a policy and the catalogue as they are now.
    pub(crate) fn renew(&mut self, policy: &Policy, admission: &Admission) -> Renewed {
        self.from = From::now(&self.side, policy);
        let rules = Rules::of(policy, admission);
        let (side, masks) = (self.side.clone(), Arc::clone(&self.masks));
        let looks = policy.postgres.looks(!rules.columns.is_empty());
        let trusted = looks.then(|| Arc::clone(&policy.postgres));
        Box::pin(async move {
            let relations = match rules.columns.is_empty() {
                true => None,
                false => Some(side.relations().await?),
            };
            let calls = match trusted {
                Some(trusted) => Calls::new(side.calls().await?, trusted),
                None => Calls::default(),
            };
            let masking = match &relations {
                Some(relations) => masks.of(&rules, relations),
                None => masks.without_catalogue(&rules),
            };
            let masking = masking.map_err(MaskingError::Detectors)?;
            Ok((masking, calls))
        })
    }

    /// This session changed the schema: whoever reads the catalogue next reads it anew.
    pub(crate) fn schema_changed(&self) {
        self.side.changed();
    }

    /// Whether the session's masks, or what it knows of calls, may be out of date: the policy changed, or the catalogue is old, or another session
    /// changed the schema.
    pub(crate) fn is_outdated(&self, policy: &Policy, masking: &Masking, calls: &Calls) -> bool {
        let catalogue =
            || self.from.changes != self.side.changes() || self.from.at.elapsed() > CATALOG_AGE_MAX;
        self.from.policy != policy.version || ((masking.names_columns() || calls.are_known()) && catalogue())
    }

    /// Puts a question; the answer comes when the future completes. Dropping it withdraws the question.
    pub(crate) fn ask(
        &self,
        question: Question,
        conversation: &Conversation,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        match question {
            Question::Held(held) => Box::pin(async move { Answer::Decided(held.decision().await) }),
            Question::SideEffects(hold, written) => {
                let side = self.side.clone();
                Box::pin(async move { Answer::SideEffects(hold, side.side_effects(&written).await) })
            }
            Question::Function(oid) => {
                let side = self.side.clone();
                Box::pin(async move {
                    Answer::Function(side.function(oid).await.unwrap_or_else(|error| {
                        tracing::warn!(%error, oid, "the server does not say which function is called");
                        None
                    }))
                })
            }
            Question::Estimate => {
                let side = self.side.clone();
                let asked = Estimate::of(conversation);
                Box::pin(async move {
                    let rows = match &asked {
                        Some(asked) => asked.ask(&side).await,
                        None => None,
                    };
                    Answer::Estimated(vec![rows])
                })
            }
        }
    }
}

/// An owned copy of what the planner is asked.
struct Estimate {
    text: Arc<str>,
    types: Arc<[u32]>,
    bind: Option<Vec<u8>>,
    search_path: Arc<str>,
}

impl Estimate {
    /// What waits, if the planner can be asked: one statement that calls nothing the planner might run for effect.
    fn of(conversation: &Conversation) -> Option<Self> {
        let waiting = conversation.waiting()?;
        let [statement] = waiting.facts.analysis.statements.as_slice() else { return None };
        if statement.columns.opaque_calls {
            return None;
        }
        // Asked with another path, or in the middle of a change of the schema, the planner would speak of other tables.
        let search_path = Arc::clone(conversation.search_path.text()?);
        let bind = match &waiting.message {
            Message::Query => None,
            // The planner says nothing of what a function does.
            Message::FunctionCall => return None,
            Message::Bind(_) => Some(waiting.bytes.get(HEADER_BYTES..)?.to_vec()),
        };
        Some(Self {
            text: Arc::clone(&waiting.facts.text),
            types: Arc::clone(&waiting.parameter_types),
            bind,
            search_path,
        })
    }

    async fn ask(&self, side: &Side) -> Option<u64> {
        let Some(bind) = &self.bind else {
            let request = PlanRequest {
                text: &self.text,
                search_path: Some(&self.search_path),
                ..PlanRequest::default()
            };
            return side.estimate(&request).await;
        };
        let bind = Bind::decode(bind).ok()?;
        let formats: Vec<i16> =
            bind.parameter_formats.iter().map(|format| i16::from(format.code() == 1)).collect();
        let values: Vec<Option<&[u8]>> = bind.parameters.clone().collect();
        let request = PlanRequest {
            text: &self.text,
            types: &self.types,
            formats: &formats,
            values: &values,
            search_path: Some(&self.search_path),
        };
        side.estimate(&request).await
    }
}
