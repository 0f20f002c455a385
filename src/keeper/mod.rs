//! Floor 2½: the process that holds everything that must not be lost, and decides nothing.
//!
//! `rollout run` becomes the keeper: one thread, one poll loop, no tokio, YAML or HTTP. It holds every long-lived fd by
//! name, is the parent of the workers and of the agent, starts the agent again when it dies, and is fit to be PID 1 of a
//! container. What a child's exit means, when a worker starts and which signal means what is for the agent to say.
//!
//! ```text
//! run.rs            the loop: wait, bury the dead, take signals, answer the agent
//! table.rs          named fds and children
//! link.rs           packets from and to the agent
//! intercept.rs      answers to workers that bind for themselves
//! agent_process.rs  the agent's life: started, running, waiting to be started again
//! systemd.rs        inherited sockets and notices of the service manager
//! shim.rs           `rollout __exec`, which becomes a worker; diagnosis.rs says why it could not
//! ```

mod agent_process;
mod diagnosis;
mod intercept;
mod link;
mod log;
pub mod protocol;
mod run;
pub mod shim;
pub mod spec;
mod systemd;
mod table;

pub use run::run;
