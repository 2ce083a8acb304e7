//! How sessions hibernate and go on.
//!
//! Both happen by themselves, perhaps every minute, so only what a user asked for has a line in the history and counts
//! as a change of the session (its revision): otherwise the history would tell of nothing else, and no `If-Match` would
//! ever match.

use super::{Scene, Step};
use crate::name::{Name, UserName};
use crate::session::{Session, SessionState, Stored};
use crate::state::Change;

impl Scene<'_> {
    /// `stored` are the number of instances and the bytes of their files.
    pub(super) fn hibernated(
        &self,
        id: &Name,
        generation: u64,
        (instances, bytes): (u64, u64),
        by: Option<&UserName>,
    ) -> Step {
        let mut step = Step::default();
        if let Some(session) = self.in_state(id, generation, SessionState::Running)
            && instances > 0
        {
            let reason = match by {
                Some(user) => format!("hibernated by {user}"),
                None => "not in use; its next call goes on from what is stored".to_owned(),
            };
            let hibernated = Session {
                stored: Some(Stored {
                    instances,
                    bytes,
                    since: self.context.now,
                }),
                ..self.turned_to(session, SessionState::Hibernated, &reason)
            };
            self.put_quietly(session, hibernated, by, &mut step);
        }
        step
    }

    pub(super) fn resumed(&self, id: &Name, generation: u64, by: Option<&UserName>) -> Step {
        let mut step = Step::default();
        if let Some(session) = self.in_state(id, generation, SessionState::Hibernated) {
            let reason = match by {
                Some(user) => format!("resumed by {user}"),
                None => "resumed by a call".to_owned(),
            };
            let running = Session {
                last_use: self.context.now.max(session.last_use),
                ..self.turned_to(session, SessionState::Running, &reason)
            };
            self.put_quietly(session, running, by, &mut step);
        }
        step
    }

    fn put_quietly(&self, was: &Session, session: Session, by: Option<&UserName>, step: &mut Step) {
        if by.is_some() {
            let what = session.reason.clone();
            self.put(session, &what, by, step);
        } else {
            step.changes.push(Change::PutSession(Session {
                revision: was.revision,
                ..session
            }));
        }
    }
}
