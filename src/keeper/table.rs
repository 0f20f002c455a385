//! What the keeper holds: named fds and named children.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::{Child, Inventory};
use crate::units::Exit;

/// What a child's pidfd is called when it is taken.
pub(super) const PIDFD_PREFIX: &str = "pidfd:";

/// Everything that must not be lost when an agent dies.
#[derive(Debug, Default)]
pub(super) struct Table {
    fds: BTreeMap<String, OwnedFd>,
    children: BTreeMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    pid: i32,
    pidfd: OwnedFd,
    life: Life,
}

/// A child's life as the agent of the moment sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    /// The agent must still be told.
    Exited(Exit),
    /// The agent was told and has not asked to forget it.
    Told(Exit),
}

impl Life {
    fn exit(self) -> Option<Exit> {
        match self {
            Self::Alive => None,
            Self::Exited(exit) | Self::Told(exit) => Some(exit),
        }
    }
}

impl Table {
    /// Holds an fd under a name, instead of what had the name.
    pub(super) fn put(&mut self, name: String, fd: OwnedFd) {
        self.fds.insert(name, fd);
    }

    /// What has this name.
    pub(super) fn named(&self, name: &str) -> Option<BorrowedFd<'_>> {
        match name.strip_prefix(PIDFD_PREFIX) {
            Some(child) => self.children.get(child).map(|kept| kept.pidfd.as_fd()),
            None => self.fds.get(name).map(AsFd::as_fd),
        }
    }

    /// Lets go of an fd.
    pub(super) fn drop_fd(&mut self, name: &str) {
        self.fds.remove(name);
    }

    /// Whether a child has this name, alive or not forgotten.
    pub(super) fn has_child(&self, name: &str) -> bool {
        self.children.contains_key(name)
    }

    /// Remembers a child that was started.
    pub(super) fn add_child(&mut self, name: String, pid: i32, pidfd: OwnedFd) {
        self.children.insert(name, Kept { pid, pidfd, life: Life::Alive });
    }

    /// The living child with this pid. A dead one's number may belong to somebody else.
    pub(super) fn living_child(&self, pid: i32) -> Option<&str> {
        let with_pid = |(_, kept): &(&String, &Kept)| kept.life == Life::Alive && kept.pid == pid;
        self.children.iter().find(with_pid).map(|(name, _)| name.as_str())
    }

    /// The living children.
    pub(super) fn living(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.children.values().filter(|kept| kept.life == Life::Alive).map(|kept| (kept.pid, kept.pidfd.as_fd()))
    }

    /// A living child has exited.
    pub(super) fn exited(&mut self, name: &str, exit: Exit) {
        if let Some(kept) = self.children.get_mut(name) {
            kept.life = Life::Exited(exit);
        }
    }

    /// An exit that the agent must be told.
    pub(super) fn next_untold(&self) -> Option<(&str, Exit)> {
        self.children.iter().find_map(|(name, kept)| match kept.life {
            Life::Exited(exit) => Some((name.as_str(), exit)),
            Life::Alive | Life::Told(_) => None,
        })
    }

    /// The agent has been told.
    pub(super) fn told(&mut self, name: &str) {
        if let Some(kept) = self.children.get_mut(name)
            && let Life::Exited(exit) = kept.life
        {
            kept.life = Life::Told(exit);
        }
    }

    /// There will be another agent, which knows nothing.
    pub(super) fn nobody_knows(&mut self) {
        for kept in self.children.values_mut() {
            if let Life::Told(exit) = kept.life {
                kept.life = Life::Exited(exit);
            }
        }
    }

    /// Forgets a child that has exited; a living one stays, because it will have to be buried.
    pub(super) fn forget(&mut self, name: &str) {
        if self.children.get(name).is_some_and(|kept| kept.life != Life::Alive) {
            self.children.remove(name);
        }
    }

    /// All of it, for an agent.
    pub(super) fn inventory(&self, agents_before: u32) -> Inventory {
        let child =
            |(name, kept): (&String, &Kept)| Child { name: name.clone(), pid: kept.pid, exit: kept.life.exit() };
        Inventory {
            fds: self.fds.keys().cloned().collect(),
            children: self.children.iter().map(child).collect(),
            agents_before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;

    fn some_fd() -> OwnedFd {
        fd::pipe().expect("pipe").0
    }

    fn with_child() -> Table {
        let mut table = Table::default();
        table.add_child("web/w1".to_owned(), 7, some_fd());
        table
    }

    #[test]
    fn an_exit_is_told_once_to_each_agent_until_it_is_forgotten() {
        let mut table = with_child();
        assert_eq!(table.next_untold(), None);
        table.exited("web/w1", Exit::Code(3));
        assert_eq!(table.next_untold(), Some(("web/w1", Exit::Code(3))));
        table.told("web/w1");
        assert_eq!(table.next_untold(), None);
        table.nobody_knows();
        assert_eq!(table.next_untold(), Some(("web/w1", Exit::Code(3))));
        table.forget("web/w1");
        assert_eq!(table.next_untold(), None);
        assert!(!table.has_child("web/w1"));
    }

    #[test]
    fn a_living_child_cannot_be_forgotten_and_a_dead_one_has_lost_its_number() {
        let mut table = with_child();
        table.forget("web/w1");
        assert_eq!(table.living_child(7), Some("web/w1"));
        table.exited("web/w1", Exit::Code(0));
        assert_eq!(table.living_child(7), None);
        assert_eq!(table.living().count(), 0);
    }

    #[test]
    fn a_name_belongs_to_the_last_fd_and_a_child_has_its_pidfd() {
        let mut table = with_child();
        assert!(table.named("lane").is_none());
        table.put("lane".to_owned(), some_fd());
        let first = table.named("lane").map(fd::number);
        table.put("lane".to_owned(), some_fd());
        assert_ne!(table.named("lane").map(fd::number), first);
        assert!(table.named("pidfd:web/w1").is_some());
        assert!(table.named("pidfd:web/w2").is_none());
        table.drop_fd("lane");
        table.drop_fd("never there");
        assert!(table.named("lane").is_none());
    }

    #[test]
    fn the_inventory_names_everything_that_is_not_forgotten() {
        let mut table = with_child();
        table.put("lane".to_owned(), some_fd());
        table.exited("web/w1", Exit::Code(3));
        let inventory = table.inventory(2);
        assert_eq!(inventory.fds, ["lane"]);
        assert_eq!(inventory.children, [Child { name: "web/w1".to_owned(), pid: 7, exit: Some(Exit::Code(3)) }]);
        assert_eq!(inventory.agents_before, 2);
    }
}
