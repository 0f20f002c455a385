//! Floor 3: the imperative shell: it waits and obeys.

pub mod control;
pub mod keeper_link;
pub mod lanes;
pub mod output;
pub mod prober;
pub mod relay;
pub mod request;
pub mod route;
