//! Undoing what programs do to lanes.
//!
//! A program that calls `shutdown` on its lane takes it out of the group, and the kernel moves the *last* member into the
//! gap; `listen` brings the lane back as the last one. So the last lanes are a reserve that no worker has: a gap is
//! filled with a lane that nobody depends on, and afterwards every lane can be brought back to its place:
//!
//! ```text
//! places      0 1 2 3 │ A B      reserve A, B; the worker of lane 2 calls shutdown(2)
//! gap filled  0 1 B 3 │ A        nothing else moved
//! take out A  0 1 B 3 │
//! listen 2    0 1 B 3 │ 2
//! take out B  0 1 2 3 │          the last one, 2, fills the gap
//! listen A,B  0 1 2 3 │ A B
//! ```

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::group::{Group, WAITING_ROOM};
use super::report::{LanesError, What};
use super::watch::Tasks;
use crate::sys::clock::now;
use crate::sys::knock::{first_readable, knock};
use crate::sys::listener;
use crate::units::LaneIndex;

/// How many lanes may be shut down at once before one moves that somebody has. A lane that is being stopped is looked at
/// as soon as it is shut down, any other one within a second.
pub(super) const RESERVE: u16 = 4;
/// For a connection within this host to appear in a queue; it takes microseconds.
const KNOCK: Duration = Duration::from_millis(100);

impl Group {
    /// The lanes that no worker gets.
    pub(super) fn reserve(&self) -> Vec<LaneIndex> {
        (self.count().saturating_sub(RESERVE)..self.count()).map(LaneIndex).collect()
    }

    /// The lanes that somebody shut down.
    pub(super) fn closed(&self) -> Vec<LaneIndex> {
        (0..self.count()).map(LaneIndex).filter(|lane| !self.look(*lane).open).collect()
    }

    /// Gives each queue its length again: a worker that called `listen` with a small backlog, as frameworks do, would lose
    /// connections in a burst. Gives back the lanes and what was found.
    pub(super) fn lengthen(&self) -> Result<Vec<(LaneIndex, u32)>, LanesError> {
        // Not what was asked for: net.core.somaxconn may allow less. No worker has the waiting room.
        let whole = self.look(WAITING_ROOM).backlog;
        let there = (0..self.count()).map(LaneIndex).filter(|lane| self.lane(*lane).is_some());
        let looks = there.map(|lane| (lane, self.look(lane)));
        let short = looks.filter(|(_, look)| look.open && look.backlog < whole);
        let short: Vec<_> = short.map(|(lane, look)| (lane, look.backlog)).collect();
        short.iter().try_for_each(|(lane, _)| self.open(*lane))?;
        Ok(short)
    }

    /// Brings these lanes back, each to its place. Says so if that could not be done.
    pub(super) fn bring_back(&mut self, closed: &[LaneIndex], tasks: &mut Tasks) -> Result<Option<What>, LanesError> {
        let reserve = self.reserve();
        let moved_others = closed.len() > reserve.len() || closed.iter().any(|lane| reserve.contains(lane));
        let (rest, fillers) = reserve.split_at(reserve.len().saturating_sub(closed.len()));
        let pairs = if moved_others { None } else { self.who_fills(closed, fillers) };
        let order = match pairs {
            Some(pairs) => {
                rest.iter().rev().try_for_each(|lane| self.close(*lane))?;
                for (lane, filler) in pairs {
                    self.open(lane)?;
                    self.close(filler)?;
                }
                reserve.iter().try_for_each(|lane| self.open(*lane))?;
                None
            }
            None => {
                closed.iter().try_for_each(|lane| self.open(*lane))?;
                Some(What::OrderLost)
            }
        };
        self.watch_again(&reserve, tasks)?;
        self.watch_again(closed, tasks)?;
        Ok(order)
    }

    fn close(&self, lane: LaneIndex) -> Result<(), LanesError> {
        self.lane(lane).map_or(Ok(()), listener::stop_listening).map_err(|error| self.kernel("close a socket", error))
    }

    fn open(&self, lane: LaneIndex) -> Result<(), LanesError> {
        let opened = self.lane(lane).map_or(Ok(()), |socket| listener::listen(&**socket, self.backlog));
        opened.map_err(|error| self.kernel("reopen a socket", error))
    }

    /// Which lane of the reserve took the place of which closed lane.
    fn who_fills(&self, closed: &[LaneIndex], fillers: &[LaneIndex]) -> Option<Vec<(LaneIndex, LaneIndex)>> {
        match (closed, fillers) {
            ([lane], [filler]) => Some(vec![(*lane, *filler)]),
            // More than one: nobody saw the order of the gaps, but a marked connection leads to whoever is there.
            _ => closed.iter().map(|lane| Some((*lane, self.who_answers(*lane, fillers).ok()??))).collect(),
        }
    }

    fn who_answers(&self, lane: LaneIndex, among: &[LaneIndex]) -> io::Result<Option<LaneIndex>> {
        let to = listener::reached_at(self.at(), self.family());
        let _connection = knock(self.mark().source(lane), to)?;
        let sockets: Vec<_> = among.iter().filter_map(|lane| self.lane(*lane)).collect();
        let sockets: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        let Some(found) = first_readable(&sockets, now().after(KNOCK))? else { return Ok(None) };
        listener::accept_nonblocking(sockets[found])?;
        Ok(among.get(found).copied())
    }
}
