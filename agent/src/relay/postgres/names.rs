//! What the session's names stand for: prepared statements, portals and cursors, including those the server has not
//! confirmed yet.
//!
//! A client may pipeline: a name can be used before the reply to the message that made it has come back, and that
//! message may still fail and leave an older meaning in place. Within one stretch up to a Sync that does not matter: had
//! the maker failed, the server would skip the use too. Across stretches it does, so such a use waits for the answer:
//! **a name is only ever used with the one meaning it is certain to have.**
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>)

use std::collections::{HashMap, VecDeque};

/// `NAMEDATALEN - 1`: PostgreSQL keeps only this much of a statement or portal name (`src/include/pg_config_manual.h`).
const NAME_BYTES_MAX: usize = 63;

/// Names one session may hold; the server would take more, an honest driver never comes near.
pub(crate) const NAMES_MAX: usize = 20_000;

/// Bytes that all meanings of one name space may weigh together: what a session prepares is kept in memory.
pub(crate) const WEIGHT_MAX: usize = 64 * 1024 * 1024;

/// Numbers the stretches between Sync messages: within one, a failure makes the server skip everything after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group(u64);

impl Group {
    /// The stretch after the next Sync.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// The session has more names, or longer texts behind them, than we follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<T> {
    /// This, or the use fails as well.
    Certain(T),
    /// Nothing: the server will refuse the use.
    None,
    /// The server has not answered yet.
    Open,
}

#[derive(Debug)]
struct Slot<T> {
    settled: Option<Weighed<T>>,
    unsettled: VecDeque<(Group, Weighed<T>)>,
}

#[derive(Debug)]
struct Weighed<T> {
    meaning: T,
    bytes: usize,
}

/// One name space.
#[derive(Debug)]
pub(crate) struct Names<T> {
    slots: HashMap<Box<[u8]>, Slot<T>>,
    bytes: usize,
}

impl<T: Clone> Names<T> {
    pub(crate) fn new() -> Self {
        Self { slots: HashMap::new(), bytes: 0 }
    }

    /// A message that gives `name` this meaning, which keeps `bytes` in memory, is on its way to the server.
    pub(crate) fn propose(
        &mut self,
        name: &[u8],
        group: Group,
        meaning: T,
        bytes: usize,
    ) -> Result<(), TooMany> {
        let slot = self.slot(name, bytes)?;
        slot.unsettled.push_back((group, Weighed { meaning, bytes }));
        Ok(())
    }

    /// The server gave `name` this meaning.
    pub(crate) fn set(&mut self, name: &[u8], meaning: T, bytes: usize) -> Result<(), TooMany> {
        let slot = self.slot(name, bytes)?;
        let before = slot.settled.replace(Weighed { meaning, bytes });
        self.bytes -= before.map_or(0, |before| before.bytes);
        Ok(())
    }

    /// Whether `name` may be given a meaning that keeps so many bytes in memory.
    pub(crate) fn has_room(&self, name: &[u8], bytes: usize) -> bool {
        let known = self.slots.contains_key(key(name));
        (known || self.slots.len() < NAMES_MAX) && self.bytes.saturating_add(bytes) <= WEIGHT_MAX
    }

    /// The slot of `name`, with room made for a meaning of so many bytes.
    fn slot(&mut self, name: &[u8], bytes: usize) -> Result<&mut Slot<T>, TooMany> {
        if !self.has_room(name, bytes) {
            return Err(TooMany);
        }
        let key = key(name);
        self.bytes += bytes;
        Ok(self
            .slots
            .entry(key.into())
            .or_insert_with(|| Slot { settled: None, unsettled: VecDeque::with_capacity(1) }))
    }

    /// The server confirmed the oldest unsettled meaning of `name`; gives back the one it replaces.
    pub(crate) fn settle(&mut self, name: &[u8]) -> Option<T> {
        let slot = self.slots.get_mut(key(name))?;
        let (_, confirmed) = slot.unsettled.pop_front()?;
        let before = slot.settled.replace(confirmed)?;
        self.bytes -= before.bytes;
        Some(before.meaning)
    }

    /// The server refused or skipped the oldest unsettled meaning of `name`.
    pub(crate) fn abandon(&mut self, name: &[u8]) {
        let key = key(name);
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Some((_, abandoned)) = slot.unsettled.pop_front() {
            self.bytes -= abandoned.bytes;
        }
        if slot.settled.is_none() && slot.unsettled.is_empty() {
            self.slots.remove(key);
        }
    }

    /// What `name` means for a message sent in `group`.
    pub(crate) fn meaning(&self, name: &[u8], group: Group) -> Meaning<T> {
        let Some(slot) = self.slots.get(key(name)) else { return Meaning::None };
        match (slot.unsettled.back(), &slot.settled) {
            (Some((given, newest)), _) if *given == group => Meaning::Certain(newest.meaning.clone()),
            (Some(_), _) => Meaning::Open,
            (None, Some(settled)) => Meaning::Certain(settled.meaning.clone()),
            (None, None) => Meaning::None,
        }
    }

    /// The newest unsettled meaning, to be changed in place while its reply is outstanding, else the settled one.
    pub(crate) fn latest_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        let slot = self.slots.get_mut(key(name))?;
        let latest = slot.unsettled.back_mut().map(|(_, newest)| newest).or(slot.settled.as_mut());
        latest.map(|latest| &mut latest.meaning)
    }

    /// The settled meaning.
    pub(crate) fn settled(&self, name: &[u8]) -> Option<&T> {
        self.slots.get(key(name))?.settled.as_ref().map(|settled| &settled.meaning)
    }

    /// The settled meaning, to be changed in place.
    pub(crate) fn settled_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        self.slots.get_mut(key(name))?.settled.as_mut().map(|settled| &mut settled.meaning)
    }

    /// The server closed `name`; gives back what it stood for.
    pub(crate) fn close(&mut self, name: &[u8]) -> Option<T> {
        let key = key(name);
        let slot = self.slots.get_mut(key)?;
        let closed = slot.settled.take();
        if slot.unsettled.is_empty() {
            self.slots.remove(key);
        }
        let closed = closed?;
        self.bytes -= closed.bytes;
        Some(closed.meaning)
    }

    /// The server forgot every settled name (end of transaction for portals, DISCARD ALL for statements); gives back
    /// what they stood for.
    pub(crate) fn close_all(&mut self) -> Vec<T> {
        let mut closed = Vec::new();
        self.slots.retain(|_, slot| {
            closed.extend(slot.settled.take());
            !slot.unsettled.is_empty()
        });
        self.bytes -= closed.iter().map(|closed| closed.bytes).sum::<usize>();
        closed.into_iter().map(|closed| closed.meaning).collect()
    }

    /// Every meaning there is, settled or not, to be changed in place.
    pub(crate) fn every_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.values_mut().flat_map(|slot| {
            let unsettled = slot.unsettled.iter_mut().map(|(_, newest)| &mut newest.meaning);
            slot.settled.iter_mut().map(|settled| &mut settled.meaning).chain(unsettled)
        })
    }
}

/// As much of a name as PostgreSQL keeps.
pub(crate) fn key(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::{Group, Meaning, NAMES_MAX, Names, TooMany, WEIGHT_MAX};

    #[test]
    fn a_name_given_in_the_same_stretch_has_one_meaning_and_later_waits_for_the_answer() {
        let mut names = Names::new();
        let first = Group::default();
        names.propose(b"s", first, "old", 0).unwrap();
        names.settle(b"s");
        let second = first.next();
        names.propose(b"s", second, "new", 0).unwrap();
        assert_eq!(names.meaning(b"s", second), Meaning::Certain("new"));
        assert_eq!(names.meaning(b"s", second.next()), Meaning::Open, "the second Parse may have failed");
        names.abandon(b"s");
        assert_eq!(names.meaning(b"s", second.next()), Meaning::Certain("old"));
        assert_eq!(names.close(b"s"), Some("old"));
        assert_eq!(names.meaning(b"s", second), Meaning::None);
    }

    #[test]
    fn names_longer_than_the_server_keeps_are_the_same_name() {
        let mut names = Names::new();
        let long = [b'x'; 80];
        names.propose(&long, Group::default(), 1, 0).unwrap();
        names.settle(&long);
        assert_eq!(names.settled(&[b'x'; 63]), Some(&1));
    }

    #[test]
    fn closing_keeps_what_is_still_on_its_way() {
        let mut names = Names::new();
        names.propose(b"s", Group::default(), 1, 0).unwrap();
        assert_eq!(names.settle(b"s"), None);
        names.propose(b"s", Group::default().next(), 2, 0).unwrap();
        assert_eq!(names.close_all(), [1]);
        assert_eq!(names.meaning(b"s", Group::default().next()), Meaning::Certain(2));
    }

    #[test]
    fn a_session_cannot_hold_names_or_texts_without_end() {
        let mut names = Names::new();
        for n in 0..NAMES_MAX {
            names.propose(&n.to_be_bytes(), Group::default(), (), 0).unwrap();
        }
        assert_eq!(names.propose(b"one more", Group::default(), (), 0), Err(TooMany));
        let mut names = Names::new();
        for n in 0..3_usize {
            names.set(b"same name", n, WEIGHT_MAX / 2).unwrap();
        }
        names.propose(b"b", Group::default(), 4, WEIGHT_MAX / 2).unwrap();
        assert_eq!(names.set(b"c", 5, 1), Err(TooMany));
        names.abandon(b"b");
        names.set(b"c", 5, 1).unwrap();
    }
}
